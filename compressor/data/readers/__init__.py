"""Samples of each task as model inputs."""
