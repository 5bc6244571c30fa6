"""Systems that data is synced from, as their tenant edits them."""
