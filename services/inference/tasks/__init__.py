"""Queue entries of inference: one function a contract; `main` has the table of who handles what."""
