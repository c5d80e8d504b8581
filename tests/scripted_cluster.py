"""A stand-in for `spiral.cluster.Cluster`: a real learner in this process, and a script instead of generators."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from spiral.cluster.dispatcher import Dispatcher
from spiral.config import Config
from spiral.headers import episode_header
from spiral.league.past import PastSelves
from spiral.learn.learner import Learner
from spiral.learn.weights.checkpoint import list_checkpoints
from spiral.types import POLICY, Episode, EpisodeHeader, Match
from tests.builders import sampled
from tests.learners import VOCABULARY

KILLED_IN_STEP = 7
SCRIPT = "script"


class ScriptedCluster:
    """A learner in this process, and a script instead of generators. Kills its process in step KILLED_IN_STEP."""

    def __init__(self, config: Config, model_dir: Path, dispatcher: Dispatcher, past: PastSelves) -> None:
        torch.set_num_threads(1)
        self._config = config
        self._learner = Learner(config, model_dir)
        self._dispatcher = dispatcher
        self._past = past
        self._version = 0
        dispatcher.join(SCRIPT, room=1000)
        self.figures = SimpleNamespace(row=dict)
        self.begin_save = lambda state: self._learner.begin_save(config.run_dir, state)
        self.finish_save = self._learner.finish_save
        self.learn = self._learner.train
        self.record = lambda step: self._learner.record(config.run_dir, step)
        self.finish_record = self._learner.finish_record

    @classmethod
    @contextmanager
    def of(
        cls, config: Config, model_dir: Path, dispatcher: Dispatcher, past: PastSelves, stop: Any, say: Any
    ) -> Iterator["ScriptedCluster"]:
        cluster = cls(config, model_dir, dispatcher, past)
        yield cluster
        cluster.finish_save()

    def wait_until_ready(self, resumed_from: Path | None, version: int) -> None:
        if resumed_from is not None:
            self._learner.load(resumed_from)
        self.sync(version)

    def sync(self, version: int) -> None:
        weights = self._learner.publish(version)
        assert weights is not None
        self._past.offer(weights, self._learner.keep_published)
        self._past.admit()
        self._version = self._dispatcher.version = version

    def collect(self, progress: Callable[[int], None]) -> tuple[list[EpisodeHeader], list[EpisodeHeader], float]:
        if self._version + 1 == KILLED_IN_STEP and os.environ.get("KILL"):
            while not list_checkpoints(self._config.run_dir):  # it is being written
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        headers = []
        for deal in self._dispatcher.deals()[SCRIPT]:
            episode = self._episode(deal.match)
            self._learner.receive([episode])
            headers.append(episode_header(episode))
            self._dispatcher.finished(SCRIPT, deal.ticket, headers[-1])
        return headers, [], 0.0

    def _episode(self, match: Match) -> Episode:
        rng = random.Random(match.seed)

        def tokens(least: int, most: int) -> tuple[int, ...]:
            return tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(least, most)))

        turns = []
        for turn in range(rng.randint(2, 5)):
            completion = tokens(1, 4)
            logprobs = tuple(rng.uniform(-4, -3) for _ in completion)
            version = self._version if match.players[turn % 2] == POLICY else -1
            turns.append(sampled(turn % 2, tokens(2, 9), completion, logprobs, version=version))
        value = rng.choice((-1.0, 0.0, 1.0))
        return Episode(
            match=match,
            turns=tuple(turns),
            returns=(value, -value),
            end_reason="finished",
            forfeit_by=None,
            duration_s=0.0,
        )
