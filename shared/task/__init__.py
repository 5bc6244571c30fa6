"""A task: variables, prompt, guards and split, worked out the same way for a live request and a row of a batch. Pure."""
