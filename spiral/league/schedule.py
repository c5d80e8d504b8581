"""Which match is played next. Match k of a run is a pure function of the config, the run's rollbacks, and k.

Where past selves play, it is one of their state as well, when the first match of its deal was issued.
"""

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spiral.config import GameChoice
from spiral.league.past import PastSelves
from spiral.types import PAST, POLICY, Match, past_self, past_version


class Schedule:
    """Issues matches by number and remembers which are done, so that a resumed run skips none and repeats none."""

    def __init__(
        self,
        seed: int,
        games: Sequence[GameChoice],
        deals: int = 1,
        opponents: Mapping[str, float] | None = None,
        past: PastSelves | None = None,
    ) -> None:
        self._seed = seed
        self._opponents = opponents or {POLICY: 1.0}
        self._deals = deals if set(self._opponents) == {POLICY} else max(2, deals)
        self._past = past
        self._drawn: dict[int, int] = {}  # the past self of a deal that is not done, by number of the deal
        self._ids = [game.id for game in games]
        self._weights = [game.weight for game in games]
        self._next = 0
        self._reseeds: list[tuple[int, int]] = []  # (k, number): from match k on, the rollback that changed the seed
        self._open: set[int] = set()
        self._again: deque[int] = deque()  # issued before a restart and not done: they come first

    def match(self, k: int) -> Match:
        """Match k: game and opponent are drawn by weight, and a past self by `PastSelves.draw`.

        `deals` matches in a row are alike. The policy plays both roles or, against another player, role 0 in even and
        role 1 in odd matches.
        """
        rollbacks = [number for first, number in self._reseeds if first <= k]
        seed = f"{self._seed}/rollback {rollbacks[-1]}" if rollbacks else f"{self._seed}"
        deal = k // self._deals
        rng = random.Random(f"{seed}/{deal}")
        game = rng.choices(self._ids, self._weights)[0]
        match_seed = rng.getrandbits(31)
        (opponent,) = rng.choices(list(self._opponents), list(self._opponents.values()))
        if opponent == PAST and self._past is not None:
            opponent = past_self(self._drawn[deal] if deal in self._drawn else self._past.draw(rng))
        players = (POLICY, opponent) if k % 2 == 0 else (opponent, POLICY)
        return Match(id=k, game=game, seed=match_seed, players=players)

    def next_match(self) -> Match:
        """The next match to play: the smallest number that was open at a restart, then new numbers."""
        if self._again:
            k = self._again.popleft()
        else:
            k, self._next = self._next, self._next + 1
        self._open.add(k)
        match = self.match(k)
        for version in map(past_version, match.players):
            if version is not None:
                self._drawn[k // self._deals] = version
        return match

    def is_open(self, k: int) -> bool:
        """Whether match k was issued, before or after a restart, and is not done."""
        return k in self._open

    def done(self, match_ids: Iterable[int]) -> None:
        """These matches were trained on, or dropped for good: they are never issued again."""
        self._open.difference_update(match_ids)
        if self._drawn:
            open_deals = {k // self._deals for k in (*self._open, self._next)}  # that of the next match may be begun
            self._drawn = {deal: version for deal, version in self._drawn.items() if deal in open_deals}

    def past_in_use(self) -> set[int]:
        """The versions of the past selves against which there are matches that are not done."""
        return set(self._drawn.values())

    def reseed(self, number: int) -> None:
        """After rollback `number` of the run, change the matches that are not issued yet, from a new deal on.

        A number that the loaded state knows changes nothing.
        """
        if all(known < number for _, known in self._reseeds):
            self._reseeds.append((-(-self._next // self._deals) * self._deals, number))

    def state_dict(self) -> dict[str, Any]:
        """Every number below `next` is done, except those in `open`."""
        reseeds = {"reseeds": self._reseeds} if self._reseeds else {}
        drawn = {"drawn": sorted(self._drawn.items())} if self._drawn else {}
        return {"next": self._next, "open": sorted(self._open), **reseeds, **drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next, self._open, self._again = state["next"], set(state["open"]), deque(sorted(state["open"]))
        self._reseeds = [(first, number) for first, number in state.get("reseeds", [])]
        self._drawn = dict(state.get("drawn", []))
