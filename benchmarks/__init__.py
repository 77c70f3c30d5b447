"""Paired measurements against the stock way; run them all with ``python -m benchmarks``."""
