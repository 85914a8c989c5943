"""From a recipe to a finished folder, and what the other commands do; nothing here prints."""
