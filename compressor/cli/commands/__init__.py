"""The commands of `compress`, one a file."""
