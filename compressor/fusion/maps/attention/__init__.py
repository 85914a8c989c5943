"""Transport maps of heads and of the channels inside them."""
