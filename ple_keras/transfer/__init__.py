"""Weights of a trained model in another one."""
