"""Seconds and memory of fusions against the teachers' forward passes."""
