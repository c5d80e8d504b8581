"""A generator without vLLM and a learner that writes down what it is given, as the actors of a whole run."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.long_tail import FrozenLearner
from spiral.config import Config
from spiral.game import Game
from spiral.learn.rank import Rank
from spiral.rollout.generator import Generator
from spiral.rollout.meter import Meter
from spiral.rollout.players import Answer
from spiral.types import POLICY, EngineFigures, WeightsRef
from tests.builders import completion

TURN_S = "turn_s"
"""File of the model directory: the time that a turn takes, in seconds."""
LEARN_S = "learn_s"
"""File of the model directory: the time that a step of the learner takes, in seconds."""
PIDS = "pids"
"""Directory in the run directory, with one file per generator that was started, named after its process."""
TRAINED = "trained.jsonl"
"""In the run directory, one line per step: [match id, number of turns, staleness] of each episode trained on."""


class Clock:
    """An engine that takes the same time for every turn."""

    past_versions: frozenset[int] = frozenset()

    def __init__(self, turn_s: float) -> None:
        self.version = 0
        self._turn_s = turn_s
        self._meter = Meter()

    async def load(self, weights: WeightsRef, past: Sequence[WeightsRef] = ()) -> None:
        self.version = weights.version

    def figures(self) -> EngineFigures:
        return self._meter.figures()

    def progress_s(self) -> float:
        return time.monotonic()

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        version = self.version
        await asyncio.sleep(self._turn_s)
        return Answer(text="up", action="up", completion=completion(version=version, max_version=self.version))


class Sampler:
    """What the generator needs of `spiral.rollout.sampler.Sampler`."""

    def __init__(self, turn_s: float) -> None:
        self.engine = Clock(turn_s)

    def player(self, label: str = POLICY) -> Clock:
        return self.engine


class ScriptedGenerator(Generator):
    """The generator, with a clock in the place of vLLM."""

    def __init__(self, config: Config, model_dir: Path, seed: int) -> None:
        super().__init__(config, model_dir, seed)
        (config.run_dir / PIDS / str(os.getpid())).touch()

    def start(self) -> None:
        threading.Thread(target=self._loop.run_forever, name="matches", daemon=True).start()
        self._sampler = Sampler(float((self._model_dir / TURN_S).read_text()))  # type: ignore[assignment]
        self._engine = self._sampler.engine


class RecordingLearner(FrozenLearner):
    """Writes down what it trains on."""

    def __init__(self, config: Config, model_dir: Path, rank: Rank) -> None:
        super().__init__(config, model_dir, rank)
        self._file = config.run_dir / TRAINED
        self._learn_s = float((model_dir / LEARN_S).read_text())

    def train(self, step: int, version: int, match_ids: Sequence[int]) -> dict[str, float]:
        trained = []
        for episode in (self._received[match_id] for match_id in match_ids):
            oldest = min(turn.completion.min_version for turn in episode.turns if turn.completion)
            trained.append((episode.match.id, len(episode.turns), version - oldest))
        with self._file.open("a") as file:
            file.write(json.dumps(trained) + "\n")
        time.sleep(self._learn_s)
        return super().train(step, version, match_ids)
