"""Training jobs before a worker takes them: bodies, checks of their data, estimates, and curves."""
