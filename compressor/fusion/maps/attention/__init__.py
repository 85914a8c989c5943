"""Maps of attention heads and their channels."""
