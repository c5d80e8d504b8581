"""Keeps TextArena matches apart that share a process: each draws from its own RNG, and none prints.

TextArena's modules draw from the process-wide `random`. A proxy in its place forwards to the RNG of the match that the
current thread is running.
"""

import importlib
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_current = threading.local()  # .rng: the RNG of the match that this thread is running, if any
_import_lock = threading.Lock()
_patched: set[str] = set()


class _MatchRandom:
    """Replaces the module `random` inside TextArena: draws from the RNG of the current match, if there is one."""

    def __getattr__(self, name: str) -> Any:
        rng = getattr(_current, "rng", None)
        return getattr(random if rng is None or not hasattr(rng, name) else rng, name)


_match_random = _MatchRandom()


def _print_nothing(*_: object, **__: object) -> None:
    """Replaces `print`, which some games use for debugging."""


class _Absent(ModuleType):
    """Stands for a module that nobody uses: every name of it can be imported."""

    def __getattr__(self, name: str) -> Any:
        return _Absent(name)


@contextmanager
def without_nltk() -> Iterator[None]:
    """Import TextArena in 0.3 s, not 3: it loads nltk (and with it scipy.stats) for word games that are refused."""
    absent = {name: _Absent(name) for name in ("nltk", "nltk.corpus") if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def patch_modules() -> None:
    """Replace `random` and `print` in every loaded TextArena module that has not been patched yet.

    This reaches every use: all of them say `import random`, and none imports another module except at its own top. The
    two games that use NumPy's generator are refused.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == "textarena" and name not in _patched]:
        module = sys.modules[name]
        if module.__dict__.get("random") is random:
            module.__dict__["random"] = _match_random
        module.__dict__["print"] = _print_nothing
        _patched.add(name)


def import_patched(module_name: str) -> Any:
    """Import a module of TextArena and patch it before another thread can use it."""
    with _import_lock:
        module = importlib.import_module(module_name)
        patch_modules()
    return module


def call_with_rng(rng: random.Random, call: Callable[..., Any], *args: object) -> Any:
    """Call into TextArena with `rng` in place of the process-wide RNG."""
    outer = getattr(_current, "rng", None)
    _current.rng = rng
    try:
        return call(*args)
    finally:
        _current.rng = outer
