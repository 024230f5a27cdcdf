"""Optimizers: embedding tables apart from the rest."""
