"""Matches as columns of numbers, for the page: every text and every picture is stored once and referred to by number.

One list per column, one entry per match, turn or token; turns of a match, and tokens of a turn, follow one another.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spiral.game.picture import Picture
from spiral.game.views import Seats, View
from spiral.monitor.transcript import answer_span
from spiral.report.pieces import Pieces
from spiral.types import Episode, Turn

NONE = -1  # in place of a number of a text, picture or state


class Numbered:
    """Different values, numbered in the order in which they came."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self.num_chars = 0
        """Characters of all texts among the values."""

    def number(self, value: Hashable | None) -> int:
        """The number of `value`, which is new if it is seen for the first time. NONE for None."""
        if value is None:
            return NONE
        if value not in self._numbers:
            self._numbers[value] = len(self._numbers)
            self.num_chars += len(value) if isinstance(value, str) else 0
        return self._numbers[value]

    def values(self) -> list[Any]:
        """The values, by number."""
        return list(self._numbers)


MATCH_COLUMNS = ("run", "step", "id", "seed", "game", "player0", "player1", "return0", "end", "forfeit", "error",
                 "turns", "replayed", "view0", "view1", "picture0", "picture1")  # fmt: skip
TURN_COLUMNS = ("role", "legal", "refusal", "text", "action", "from", "to", "view0", "view1", "picture0", "picture1",
                "finish", "oldest", "newest", "advantage", "ratio", "state", "tokens", "logprob")  # fmt: skip


@dataclass
class MatchColumns:
    """Takes episodes one by one; `data()` is what the page reads."""

    texts: Numbered = field(default_factory=Numbered)
    pictures: Numbered = field(default_factory=Numbered)

    def __post_init__(self) -> None:
        self._matches: dict[str, list[Any]] = {name: [] for name in MATCH_COLUMNS}
        self._turns: dict[str, list[Any]] = {name: [] for name in TURN_COLUMNS}
        self._tokens: dict[str, list[int]] = {"piece": [], "logprob": []}
        self._pictures: dict[int, tuple[Picture, int]] = {}  # numbered ones by id: to hash one takes long

    @property
    def size(self) -> int:
        """About how many characters `data()` has as JSON."""
        return self.texts.num_chars + 10 * len(self._tokens["piece"])

    def add(
        self,
        episode: Episode,
        seats: Sequence[Seats],
        *,
        run: int,
        step: int,
        replayed: bool,
        figures: Sequence[tuple[float | None, float | None]],
        states: Sequence[int],
        pieces: Pieces | None,
    ) -> None:
        """Add an episode of `run` and `step`.

        `seats` holds the views before each turn and after the last; `figures` and `states` the (advantage, ratio) and
        the number of the information state of each turn.
        """
        match, text = episode.match, self.texts.number
        for turn, views, figure, state in zip(episode.turns, seats, figures, states, strict=False):
            self._add_turn(turn, views, figure, state, pieces)
        row = (run, step, match.id, match.seed, text(match.game), *map(text, match.players), episode.returns[0],
               text(episode.end_reason), NONE if episode.forfeit_by is None else episode.forfeit_by,
               text(episode.error), len(episode.turns), int(replayed), *self._views(seats[-1]))  # fmt: skip
        _append(self._matches, row)

    def _add_turn(
        self, turn: Turn, views: Seats, figure: tuple[float | None, float | None], state: int, pieces: Pieces | None
    ) -> None:
        text, done = self.texts.number, turn.completion
        span = answer_span(turn.text, turn.action)
        start, end = (_utf16_length(turn.text[:place]) for place in span) if span else (NONE, NONE)
        cut = pieces.cut(done.token_ids, turn.text) if pieces and done else None
        row = (turn.role, int(turn.legal), text(turn.error), text(turn.text), text(turn.action), start, end,
               *self._views(views), text(done.finish_reason if done else None), done.min_version if done else NONE,
               done.max_version if done else NONE, *map(_rounded, figure), state, len(cut or ()),
               _rounded(float(done.logprobs.sum())) if done else None)  # fmt: skip
        _append(self._turns, row)
        if done and cut:
            self._tokens["piece"] += map(text, cut)
            self._tokens["logprob"] += np.fmin(done.logprobs * -1000, 1e6).round().astype(int).tolist()

    def _views(self, seats: Seats) -> tuple[int, int, int, int]:
        """The numbers of two texts and of two pictures."""
        first, second = seats
        return self._text(first), self._text(second), self._picture(first), self._picture(second)

    def _text(self, view: View) -> int:
        return self.texts.number(view.text)

    def _picture(self, view: View) -> int:
        picture = view.picture
        if picture is None:
            return NONE
        if id(picture) not in self._pictures:
            self._pictures[id(picture)] = (picture, self.pictures.number(picture))
        return self._pictures[id(picture)][1]

    def data(self, special: Sequence[str]) -> dict[str, Any]:
        """The columns, as JSON takes them. `special` are the texts of special tokens."""
        known = {text: number for number, text in enumerate(self.texts.values())}
        return {
            "texts": self.texts.values(),
            "pictures": [_drawn(one) for one in self.pictures.values()],
            "special": [known[text] for text in special if text in known],
            "matches": self._matches,
            "turns": self._turns,
            "tokens": self._tokens,
        }


def _append(columns: dict[str, list[Any]], row: Sequence[Any]) -> None:
    for column, value in zip(columns.values(), row, strict=True):
        column.append(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _utf16_length(text: str) -> int:
    """The length of `text` in JavaScript."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "replace")) // 2


def _drawn(picture: Picture) -> list[Any]:
    """[kind, label, [[text, owner, hidden, marked], ...]] of each row."""
    return [
        [row.kind, row.label, [[t.text, NONE if t.owner is None else t.owner, int(t.hidden), int(t.marked)] for t in
                               row.tiles]]
        for row in picture
    ]  # fmt: skip
