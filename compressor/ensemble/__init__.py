"""What several teachers answer together: how their predictions are mixed, compared, and which weights they get."""
