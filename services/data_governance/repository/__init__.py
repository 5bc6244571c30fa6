"""The SQL of data governance: one module a subject."""
