"""The Python face: what `import compressor` gives, with models, data and results as objects."""
