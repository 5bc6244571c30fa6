"""One module a resource; each parses a body into a contract and answers in the API shape."""
