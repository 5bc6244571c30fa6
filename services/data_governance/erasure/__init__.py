"""Which rows belong to a subject who asked to be forgotten: found in versions and in the files they were made of."""
