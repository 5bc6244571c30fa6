"""Searches for hyperparameters: what they vary and what came of it."""
