"""Plots of gates."""
