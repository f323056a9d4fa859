"""Training binaries and what they share; figures and studies beneath."""
