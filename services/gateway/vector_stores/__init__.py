"""Vector stores: their files, lists and searches."""
