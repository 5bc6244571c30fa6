"""From uploads to governed, content-addressed dataset versions."""
