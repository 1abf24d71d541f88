"""What every room needs: errors, files that are written whole, exit codes, text for people."""
