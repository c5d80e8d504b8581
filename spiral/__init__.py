"""SPIRAL: train one language model by playing zero-sum text games against itself."""

__version__ = "0.1.0"
