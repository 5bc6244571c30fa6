"""The sample export that the demo runs on, and its generator."""
