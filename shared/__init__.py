"""Plumbing and vocabulary that every service shares; it knows no service."""
