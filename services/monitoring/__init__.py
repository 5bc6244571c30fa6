"""Rollups, alerts and the built-in OTLP receiver."""
