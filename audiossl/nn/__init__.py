"""Building blocks: frontends, transformer, masking, features."""
