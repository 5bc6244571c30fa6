"""Evals without servers: items, requests, graders and figures. Values in, values out."""
