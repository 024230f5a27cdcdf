"""Losses over labeled examples, and losses of jointly trained tasks."""
