"""Pretraining, fine-tuning and evaluation in a supervised child process."""
