"""Pages that open offline: one HTML file with its charts, styles and scripts, that asks nothing of any network."""
