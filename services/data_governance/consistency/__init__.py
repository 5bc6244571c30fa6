"""Consistency: what several files say of the same things, held against each other. Knows no job and no database."""
