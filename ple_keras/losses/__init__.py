"""Losses of examples, and their reductions over labeled examples."""
