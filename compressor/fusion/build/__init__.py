"""From maps to a student: transported weights, closed-form refit, layer-wise reconstruction, the head; pilots."""
