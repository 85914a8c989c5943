"""Maps of residual, hidden, head and expert coordinates."""
