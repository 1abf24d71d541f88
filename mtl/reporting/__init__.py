"""Show figures as terminal tables, Markdown, charts, and HTML pages that work offline."""
