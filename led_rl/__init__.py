"""Latent Exploration Decoding for RL post-training. Importing this package imports neither vLLM nor TRL."""

__version__ = "0.1.0"
