"""A game whose matches differ in length, and a learner that takes no time: for measuring play."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiral.config import Config
from spiral.learn.rank import Rank
from spiral.types import Episode, GameSpec, WeightsRef

SHORT, LONG, ONE_IN = 4, 120, 50
ANSWERS = ("31415926", "27182845")  # builtin/tiny has a token for each digit


def num_turns(seed: int) -> int:
    """The number of turns of the match with this seed: one in fifty is thirty times longer than the others."""
    return LONG if random.Random(seed).random() < 1 / ONE_IN else SHORT


class LongTail:
    """A match whose number of turns follows from its seed. Any text is legal, so no match ends early.

    The role that moves last wins if its text contains a 9.
    """

    spec = GameSpec(id="long_tail", title="Long tail", rules="Name an 8-digit number.", max_turns=LONG, max_return=1.0)
    lists_selection = True

    def __init__(self, seed: int) -> None:
        self._left = num_turns(seed)
        self._role = 0
        self._payoff = 0.0  # of role 0

    def role_to_move(self) -> int | None:
        return self._role if self._left else None

    def observe(self, role: int) -> str:
        return f"You are player {role}. Turns left: {self._left}."

    def legal_actions(self) -> tuple[str, ...]:
        return ANSWERS

    def step(self, action: str) -> None:
        self._payoff = (1.0 if "9" in action else -1.0) * (1 - 2 * self._role)
        self._left, self._role = self._left - 1, 1 - self._role

    def returns(self) -> tuple[float, float]:
        return self._payoff, -self._payoff


class EvenLengths(LongTail):
    """The same without long matches."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._left = SHORT


class FrozenLearner:
    """Takes the place of `spiral.learn.learner.Learner`: every policy version it publishes is the initial model."""

    def __init__(self, config: Config, model_dir: Path, rank: Rank) -> None:
        self._model_dir = model_dir
        self._received: dict[int, Episode] = {}

    def receive(self, *reports: Sequence[Episode]) -> None:
        self._received.update((episode.match.id, episode) for episodes in reports for episode in episodes)

    def train(self, step: int, version: int, match_ids: Sequence[int]) -> dict[str, float]:
        for match_id in match_ids:
            del self._received[match_id]
        return {"perf/learn_s": 0.0}

    def publish(self, version: int, averaged: bool = False) -> WeightsRef:
        return WeightsRef(version=version, location=str(self._model_dir))

    def record(self, run_dir: Path, step: int) -> None:
        pass

    def finish_record(self) -> None:
        pass

    def begin_save(self, run_dir: Path, state: dict[str, Any]) -> None:
        pass

    def finish_save(self) -> None:
        pass

    def close(self) -> None:
        pass
