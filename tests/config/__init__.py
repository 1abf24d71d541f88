"""Every configuration that ships."""
