"""HTTP in, rows and messages out: tenants, keys, quotas and the OpenAI shapes."""
