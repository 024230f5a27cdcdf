"""Plots of gates and architectures."""
