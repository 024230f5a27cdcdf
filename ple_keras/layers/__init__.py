"""Layers: experts, gates and blocks."""
