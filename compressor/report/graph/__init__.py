"""The flow graph of a model as SVG: nodes are operations, edges carry transport maps."""
