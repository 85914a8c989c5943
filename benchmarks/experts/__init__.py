"""Unlike teachers: experts on classes, shards and domains, against the strongest opponents."""
