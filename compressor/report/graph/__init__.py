"""The transportation-map flow graph of a model as a picture: operations are nodes, maps flow along the edges."""
