"""Supervised fine-tuning: what is chosen for a run and why, and the parts that TRL's trainer is given."""
