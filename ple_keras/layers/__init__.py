"""Experts, gates and the blocks that are made of them."""
