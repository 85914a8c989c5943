"""The tables of "Transformer Fusion with Optimal Transport", made again: `python -m benchmarks.paper TABLE`."""
