"""Queue entries of data governance: one module a subject, one function a contract."""
