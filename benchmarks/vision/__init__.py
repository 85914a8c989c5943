"""Teachers of images."""
