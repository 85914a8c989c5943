"""Build a student from maps; pilots."""
