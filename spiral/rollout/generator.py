"""The generator: a Ray actor with one vLLM engine and one event loop that keeps many matches in flight."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiral.config import Config
from spiral.game.solve import DecisionPoint
from spiral.rollout.orphan import GENERATOR_PID
from spiral.rollout.play import play
from spiral.rollout.players import make_player
from spiral.rollout.sampler import Sampler
from spiral.types import Episode, Match, WeightsRef


class Generator:
    """Plays matches with the newest weights it has loaded. `spiral.cluster` makes it a Ray actor."""

    def __init__(self, index: int, config: Config, model_dir: Path) -> None:
        self._index = index
        self._config = config
        self._model_dir = model_dir
        self._num_in_flight = 0

    async def start(self) -> None:
        """Load tokenizer and engine. Not in the constructor, so that the caller can await it with a time limit."""
        os.environ[GENERATOR_PID] = str(os.getpid())
        self._sampler = Sampler.start(self._model_dir, self._config, self._config.seed + self._index)
        self._engine = self._sampler.engine

    async def play(self, matches: list[Match]) -> list[Episode]:
        """Play all matches at the same time; the episodes come in the order of the matches."""
        self._num_in_flight += len(matches)
        return list(await asyncio.gather(*(self._play(match) for match in matches)))

    async def _play(self, match: Match) -> Episode:
        first, second = (
            make_player(label, match.game, f"{match.seed}/{role}", self._sampler.player)
            for role, label in enumerate(match.players)
        )
        limits = self._config.rollout
        try:
            return await play(
                match,
                (first, second),
                illegal_retries=limits.illegal_retries,
                timeout_s=limits.match_timeout_s,
            )
        finally:
            self._num_in_flight -= 1

    async def num_in_flight(self) -> int:
        """Matches being played now. Returns at once, unless a game blocks the event loop."""
        return self._num_in_flight

    async def action_logprobs(self, game_id: str, points: Sequence[DecisionPoint]) -> list[tuple[float, ...]]:
        """See `Sampler.action_logprobs`."""
        return await self._sampler.action_logprobs(game_id, points)

    # --- new weights: see `Engine`

    async def load(self, weights: WeightsRef) -> None:
        await self._engine.load(weights)

    async def connect(self, rendezvous: dict[str, Any]) -> None:
        await self._engine.connect(rendezvous)

    async def begin_receive(self) -> None:
        await self._engine.begin_receive()

    async def receive(self, update: Any) -> None:
        await self._engine.receive(update)

    async def finish_receive(self, version: int) -> None:
        await self._engine.finish_receive(version)
