"""Losses over labelled examples, and losses of jointly trained tasks."""
