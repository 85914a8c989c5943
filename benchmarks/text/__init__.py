"""Teachers and students of texts."""
