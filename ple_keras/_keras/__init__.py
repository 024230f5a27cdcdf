"""Utilities for building, copying, saving, freezing and quantizing Keras layers."""
