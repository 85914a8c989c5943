"""Every model type of the installed transformers, inspected, fused and exported at tiny size."""
