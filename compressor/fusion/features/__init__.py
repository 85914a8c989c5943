"""What heads and hidden units are compared by: activations or weights."""
