"""Features by which coordinates are compared: activations over calibration tokens, or weights."""
