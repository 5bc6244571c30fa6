"""Live and batched generation over one engine a worker."""
