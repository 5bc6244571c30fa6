"""A continuous-batching engine; it runs from a plain script and knows no queue and no SQL."""
