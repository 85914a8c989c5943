"""Transport maps of the residual stream, of hidden units and of experts."""
