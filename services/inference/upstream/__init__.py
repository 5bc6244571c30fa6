"""Forwards to OpenAI-compatible servers, in a process of its own that speaks the engine's frames. Knows no torch."""
