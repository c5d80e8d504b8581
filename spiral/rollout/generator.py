"""The generator: a Ray actor with one vLLM engine and one event loop that holds many matches in flight."""

import asyncio
import os
from pathlib import Path
from typing import Any

from spiral.config import Config
from spiral.game import make
from spiral.game.solve import DecisionPoint
from spiral.rollout.orphan import GENERATOR_PID
from spiral.rollout.play import play
from spiral.rollout.players import PolicyPlayer, seat
from spiral.rollout.prompt import Prompter
from spiral.types import Episode, Match, WeightsRef


class Generator:
    """Plays matches with the newest weights it was given. Made a Ray actor by `spiral.cluster`."""

    def __init__(self, index: int, config: Config, model_dir: Path) -> None:
        self._index = index
        self._config = config
        self._model_dir = model_dir
        self._num_in_flight = 0

    async def start(self) -> None:
        """Load tokenizer and engine: the slow part, out of the constructor so that it can be awaited with a limit."""
        from transformers import AutoTokenizer

        from spiral.rollout.engine import Engine

        os.environ[GENERATOR_PID] = str(os.getpid())
        config = self._config
        self._prompter = Prompter(AutoTokenizer.from_pretrained(self._model_dir), config.rollout.answer_format)
        self._engine = Engine.start(
            self._model_dir,
            config.rollout,
            config.generators,
            config.model.dtype,
            config.seed + self._index,
            config.learner.lora_rank,
            config.learner.lora_targets,
            None if config.weights.transport == "files" else config.weights.transport,
        )

    async def play(self, matches: list[Match]) -> list[Episode]:
        """Play all matches at the same time; the episodes come in the order of the matches."""
        self._num_in_flight += len(matches)
        return list(await asyncio.gather(*(self._play(match) for match in matches)))

    async def _play(self, match: Match) -> Episode:
        players = tuple(
            seat(label, match.game, f"{match.seed}/{role}", self._policy) for role, label in enumerate(match.players)
        )
        limits = self._config.rollout
        try:
            return await play(
                match,
                (players[0], players[1]),
                illegal_retries=limits.illegal_retries,
                timeout_s=limits.match_timeout_s,
            )
        finally:
            self._num_in_flight -= 1

    def _policy(self) -> PolicyPlayer:
        return PolicyPlayer(self._engine, self._prompter, self._config.rollout.context == "conversation")

    async def load(self, weights: WeightsRef) -> None:
        """Take over published weights."""
        await self._engine.load(weights)

    async def connect(self, meeting: dict[str, Any]) -> None:
        """Meet the learner, which will send weights."""
        await self._engine.connect(meeting)

    async def begin_receive(self) -> None:
        """Pause: weights are about to be sent."""
        await self._engine.begin_receive()

    async def receive(self, what: Any) -> None:
        """Take what the learner sends."""
        await self._engine.receive(what)

    async def finish_receive(self, version: int) -> None:
        """Go on with what was received as policy version `version`."""
        await self._engine.finish_receive(version)

    async def num_in_flight(self) -> int:
        """Matches that are being played now. Answers at once, unless a game blocks the event loop."""
        return self._num_in_flight

    async def action_logprobs(self, game_id: str, points: list[DecisionPoint]) -> list[tuple[float, ...]]:
        """log pi of the canonical answer for each legal action, at each decision point, in nats.

        What their probabilities lack to 1 belongs to every other text. An answer spelt with other tokens counts as
        other text, so the mass found illegal is an upper bound.
        """
        spec = make(game_id, 0).spec

        async def logprobs(point: DecisionPoint) -> tuple[float, ...]:
            prompt_ids = self._prompter.prompt_ids(spec, point.observation)
            answers = [self._prompter.answer_ids(action) for action in point.legal_actions]
            return tuple(await asyncio.gather(*(self._engine.score(prompt_ids, answer) for answer in answers)))

        return list(await asyncio.gather(*(logprobs(point) for point in points)))
