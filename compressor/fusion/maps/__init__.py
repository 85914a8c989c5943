"""Maps of residual, hidden, head and expert coordinates."""

# Registered by being imported, together with any other of these.
from compressor.fusion.maps import outliers as outliers
from compressor.fusion.maps import pairs as pairs
