"""What can be told of a text by looking at it: personal data, and the script it is written in. Pure."""
