"""Evals, their runs and what came of them."""
