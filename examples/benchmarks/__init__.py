"""Benchmarks of quality and speed. `README.md` says what each of them measures."""
