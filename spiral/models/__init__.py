"""Models: from a name in a config, or on the command line, to a directory that transformers and vLLM load."""

from spiral.models.cache import cache_dir
from spiral.models.names import SMOLLM2, TINY, TINY_CONTEXT
from spiral.models.playable import PlayableModel, open_model
from spiral.models.resolver import cached, check_available, resolve
from spiral.models.size import float32_bytes

__all__ = [
    "SMOLLM2",
    "TINY",
    "TINY_CONTEXT",
    "PlayableModel",
    "cache_dir",
    "cached",
    "check_available",
    "float32_bytes",
    "open_model",
    "resolve",
]
