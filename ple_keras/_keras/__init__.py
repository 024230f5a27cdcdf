"""Utilities for building, copying, saving and freezing Keras layers, and for data and tensors."""
