"""Rings doorbells, reaps expired leases, delivers webhooks; holds no state."""
