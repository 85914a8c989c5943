"""Images decoded within bounds, as 8 bits a value."""
