"""A model's folder: weights, preprocessors, and writing them."""
