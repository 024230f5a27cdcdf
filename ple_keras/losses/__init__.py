"""Losses of examples, and their means over labeled examples."""
