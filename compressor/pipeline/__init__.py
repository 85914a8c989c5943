"""The jobs of the commands; nothing here prints."""
