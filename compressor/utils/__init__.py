"""What every room needs and nobody owns: registries, files, processes, logging."""
