"""Metrics over labelled examples, and gains of multi-task models."""
