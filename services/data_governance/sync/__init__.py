"""Syncs: from a system that changes to an immutable file that is its state. Knows no job and no database of ours."""
