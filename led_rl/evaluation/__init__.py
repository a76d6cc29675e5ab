"""Standard and LED decoding compared on the same problems: generation, records, statistics."""
