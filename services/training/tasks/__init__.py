"""Queue entries of training: one module a way of training, each around a run in a child process."""
