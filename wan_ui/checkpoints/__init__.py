"""Checkpoints: where a model's files are, and what is in them."""
