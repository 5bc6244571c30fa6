"""Searches for hyperparameters: trials in, what to try next and what to give up out. Knows no SQL and no queue."""
