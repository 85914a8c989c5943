"""The student's shape: width, depth and heads."""
