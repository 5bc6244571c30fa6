"""Answers of models on their way to a client: live, in the background, resumed, and what they leave behind."""
