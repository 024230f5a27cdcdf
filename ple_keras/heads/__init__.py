"""Heads: the prediction, loss and metrics of a task."""
