"""Labelling without queue or database: items, agreement, votes, functions, doubts and formats."""
