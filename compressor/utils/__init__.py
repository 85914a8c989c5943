"""Helpers of all rooms: registries, matrices, files, processes, threads, logging."""
