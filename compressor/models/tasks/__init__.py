"""Tasks of models: the table, and how answers are read."""
