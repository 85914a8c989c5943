"""The student's width, depth and attention shape."""
