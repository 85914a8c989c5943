"""Features that compare coordinates: activations or weights."""
