"""A task: its variables, prompt, guards and split, the same for a live request and for a row of a batch. Pure."""
