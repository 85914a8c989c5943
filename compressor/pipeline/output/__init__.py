"""Folders that commands write."""
