"""Training binaries and what they share."""
