"""The version, here alone: the package, its metadata and the reports of runs read it."""

__version__ = "0.1.0"
