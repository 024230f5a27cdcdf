"""Metrics over labeled examples."""
