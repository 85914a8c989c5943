"""Students of a public pretrained sentence model."""
