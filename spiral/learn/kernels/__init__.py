"""Numerical kernels: packing without padding, attention within samples, log-probabilities in chunks."""
