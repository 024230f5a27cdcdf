"""Losses over labelled examples, and of tasks that are trained together."""
