"""Encoders, the network around them, and training."""
