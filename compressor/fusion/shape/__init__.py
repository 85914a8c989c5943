"""The shape of the student: width, depth and heads, as a config that its family can express."""
