"""Files made searchable: text, chunks, terms, an index of each, and a ranking over many. Knows no queue and no SQL."""
