"""Tiny models of every family, for tests and benchmarks; not part of the wheel."""
