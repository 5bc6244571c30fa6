"""Distillation without its plumbing: prompts out of rows, training rows out of answers, and their figures."""
