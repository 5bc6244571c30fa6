"""What came from what, and whose rows are erased."""
