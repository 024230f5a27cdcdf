"""Layers: experts, gates and blocks of them."""
