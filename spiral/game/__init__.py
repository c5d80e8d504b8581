"""Games: the protocol, the registry that finds them, and adapters for TextArena and OpenSpiel.

A game needs only names from this package; `spiral` exports them too. `check` and `nash_conv` are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from spiral.game.protocol import ExactGame, Game, IllegalAction, refuse_unlisted, try_step
from spiral.game.registry import game_ids, make
from spiral.game.text import one_line
from spiral.types import GameSpec

if TYPE_CHECKING:
    from spiral.game.conformance import check
    from spiral.game.solve import nash_conv

__all__ = [
    "ExactGame",
    "Game",
    "GameSpec",
    "IllegalAction",
    "check",
    "game_ids",
    "make",
    "nash_conv",
    "one_line",
    "refuse_unlisted",
    "try_step",
]

_LAZY = {"check": "spiral.game.conformance", "nash_conv": "spiral.game.solve"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
