"""Multi-task models."""
