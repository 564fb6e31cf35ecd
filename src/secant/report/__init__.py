"""What a race leaves for its reader: a table, a page, and lines while it runs."""
