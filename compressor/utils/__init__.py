"""Helpers: registries, matrices, files, processes, threads, logging."""
