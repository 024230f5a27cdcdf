"""Benchmarks of quality and speed. `README.md` describes each of them."""
