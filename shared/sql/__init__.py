"""The database as numbered, forward-only migrations."""
