"""Sentence encoders trained from scratch by contrast: texts of one label are drawn together, others apart."""
