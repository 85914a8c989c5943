"""The jobs of the commands: from a recipe to a finished folder, and others; nothing here prints."""
