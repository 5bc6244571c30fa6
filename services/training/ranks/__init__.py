"""One run in several processes: launched by torchrun's agent, heard through the first of them."""
