"""Which match is played next. Match k of a run is a pure function of the config, the watchdog's actions, and k.

Where past selves play, it is one of their state as well, when the first match of its deal was issued.
"""

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from spiral.config import GameChoice
from spiral.league.past import PastSelves
from spiral.types import PAST, POLICY, Match, past_self, past_version

Value = TypeVar("Value")


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
        self._factors: list[tuple[int, float]] = []  # (k, factor): from match k on, of the weights of other players
        self._open: set[int] = set()
        self._again: deque[int] = deque()  # issued before a restart and not done: they come first

    def match(self, k: int) -> Match:
        """Match k: game and opponent are drawn by weight, and a past self by `PastSelves.draw`.

        `deals` matches in a row are alike. The policy plays both roles or, against another player, role 0 in even and
        role 1 in odd matches.
        """
        rollback = _latest(self._reseeds, k)
        seed = f"{self._seed}" if rollback is None else f"{self._seed}/rollback {rollback}"
        deal = k // self._deals
        rng = random.Random(f"{seed}/{deal}")
        game = rng.choices(self._ids, self._weights)[0]
        match_seed = rng.getrandbits(31)
        factor = _latest(self._factors, k) or 1.0
        weights = [weight if name == POLICY else factor * weight for name, weight in self._opponents.items()]
        (opponent,) = rng.choices(list(self._opponents), weights)
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
            self._reseeds.append((self._next_deal(), number))

    def raise_opponents(self, factor: float) -> None:
        """Multiply the weights of all players but the policy by `factor`, in matches from the next new deal on.

        The factor replaces an earlier one; one that the loaded state knows changes nothing.
        """
        if factor != (self._factors[-1][1] if self._factors else 1.0):
            self._factors.append((self._next_deal(), factor))

    def _next_deal(self) -> int:
        """The first match of the first deal of which none is issued."""
        return -(-self._next // self._deals) * self._deals

    def state_dict(self) -> dict[str, Any]:
        """Every number below `next` is done, except those in `open`."""
        reseeds = {"reseeds": self._reseeds} if self._reseeds else {}
        factors = {"factors": self._factors} if self._factors else {}
        drawn = {"drawn": sorted(self._drawn.items())} if self._drawn else {}
        return {"next": self._next, "open": sorted(self._open), **reseeds, **factors, **drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next, self._open, self._again = state["next"], set(state["open"]), deque(sorted(state["open"]))
        self._reseeds = [(first, number) for first, number in state.get("reseeds", [])]
        self._factors = [(first, factor) for first, factor in state.get("factors", [])]
        self._drawn = dict(state.get("drawn", []))


def _latest(changes: Iterable[tuple[int, Value]], k: int) -> Value | None:
    """What holds for match k, of changes (first match, value) in this order."""
    holding = [value for first, value in changes if first <= k]
    return holding[-1] if holding else None
