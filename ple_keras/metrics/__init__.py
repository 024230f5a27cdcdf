"""Metrics over labeled examples, and gains of multi-task models."""
