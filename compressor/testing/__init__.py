"""Tiny models of every family and what tests and benchmarks do with them; not part of the wheel."""
