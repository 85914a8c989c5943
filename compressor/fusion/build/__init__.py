"""Build a student from maps: transport, refit, reconstruction, head; pilots."""
