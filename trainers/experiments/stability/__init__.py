"""Uniform stability: what one training example changes."""
