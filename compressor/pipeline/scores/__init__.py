"""Scores of models, and how they differ."""
