"""Models without a head: their pooler, and the modules of sentence embeddings."""
