"""Files and bytes that clients send."""
