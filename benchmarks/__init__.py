"""Scripts that anyone can rerun, and what they share."""
