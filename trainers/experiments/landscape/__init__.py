"""Figure 2 of the paper: the local entropy of a loss of one weight."""
