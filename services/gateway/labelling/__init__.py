"""Labelling: projects as their owner sees them, and labellers at work."""
