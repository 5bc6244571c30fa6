"""Tuning on preferences: of two answers to a prompt the better one becomes more likely, by the measure of the base."""
