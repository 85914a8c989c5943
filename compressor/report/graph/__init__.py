"""The flow graph of a model as SVG."""
