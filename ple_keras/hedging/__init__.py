"""Branches of tasks: their weights, best epochs and mixtures."""
