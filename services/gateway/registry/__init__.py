"""Registered models: versions, stages, gates, approvals, and who answers a name."""
