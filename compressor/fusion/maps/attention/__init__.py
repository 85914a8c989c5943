"""Maps of attention heads and of the channels inside them."""
