"""Which match is played next. Match k of a run is a pure function of the config and k."""

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spiral.config import GameChoice
from spiral.types import POLICY, Match


class Schedule:
    """Issues matches by number and remembers which are done, so that a resumed run skips none and repeats none."""

    def __init__(
        self, seed: int, games: Sequence[GameChoice], deals: int = 1, opponents: Mapping[str, float] | None = None
    ) -> None:
        self._seed = seed
        self._opponents = opponents or {POLICY: 1.0}
        self._deals = deals if set(self._opponents) == {POLICY} else max(2, deals)
        self._ids = [game.id for game in games]
        self._weights = [game.weight for game in games]
        self._next = 0
        self._open: set[int] = set()
        self._again: deque[int] = deque()  # issued before a restart and not done: they come first

    def match(self, k: int) -> Match:
        """Match k: game and opponent are drawn by weight. `deals` matches in a row are alike.

        The policy plays both roles or, against another player, role 0 in even and role 1 in odd matches.
        """
        rng = random.Random(f"{self._seed}/{k // self._deals}")
        game = rng.choices(self._ids, self._weights)[0]
        seed = rng.getrandbits(31)
        (opponent,) = rng.choices(list(self._opponents), list(self._opponents.values()))
        players = (POLICY, opponent) if k % 2 == 0 else (opponent, POLICY)
        return Match(id=k, game=game, seed=seed, players=players)

    def next_match(self) -> Match:
        """The next match to play: the smallest number that was open at a restart, then new numbers."""
        if self._again:
            k = self._again.popleft()
        else:
            k, self._next = self._next, self._next + 1
        self._open.add(k)
        return self.match(k)

    def is_open(self, k: int) -> bool:
        """Whether match k was issued, before or after a restart, and is not done."""
        return k in self._open

    def done(self, match_ids: Iterable[int]) -> None:
        """These matches were trained on, or dropped for good: they are never issued again."""
        self._open.difference_update(match_ids)

    def state_dict(self) -> dict[str, Any]:
        """Every number below `next` is done, except those in `open`."""
        return {"next": self._next, "open": sorted(self._open)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next, self._open, self._again = state["next"], set(state["open"]), deque(sorted(state["open"]))
