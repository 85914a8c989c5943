"""Maps of the residual stream, of hidden units, heads and experts."""
