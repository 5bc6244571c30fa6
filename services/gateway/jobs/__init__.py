"""Durable work as its tenant sees it: accepted, listed, labelled, told by webhook."""
