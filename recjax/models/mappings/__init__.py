"""Mappings between the checkpoints of `transformers` and our parameters, one module for each family."""
