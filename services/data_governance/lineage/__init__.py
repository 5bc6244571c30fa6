"""Where single rows are: in which versions, and what a version is made of."""
