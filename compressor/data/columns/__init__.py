"""Columns of a split: found by name or task, and their labels."""
