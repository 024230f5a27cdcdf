"""Heads: from the features of a task to its prediction, loss and metrics."""
