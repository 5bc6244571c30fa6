"""Tasks: a model, its template, decoding and guards under one versioned name."""
