"""Figures 1 and 3 of the paper: the curvature of a trained network."""
