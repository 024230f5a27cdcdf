"""Optimizers of embedding tables."""
