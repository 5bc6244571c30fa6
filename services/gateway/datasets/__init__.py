"""Datasets and their versions: recipes, reports, downloads, and exports."""
