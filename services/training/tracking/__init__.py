"""What is kept of a run's steps: a table, event files, other trackers, and how long is left. Knows no SQL, no torch."""
