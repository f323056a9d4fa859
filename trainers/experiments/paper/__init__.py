"""The paper's experiments of figures 4 and 5 and of the later table."""
