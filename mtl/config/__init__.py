"""From the command line and the YAML files to typed, checked values."""
