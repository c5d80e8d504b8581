"""A collapse that is provoked by a learning rate 20 times too high is caught, and undone.

Loop, learner, schedule and files are the real ones. The policy plays matching pennies with itself: each role writes a
token, and the first wins if their sum is even. It is sampled here, without vLLM.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from spiral import api, trainer
from spiral.cluster.dispatcher import Dispatcher
from spiral.config import Config
from spiral.monitor.watchdog import WatchdogLog
from spiral.run import Run
from spiral.types import Episode, Match
from spiral.verify import verify
from tests.builders import sampled
from tests.learners import VOCABULARY, model_dir
from tests.unit.test_exact_resume import ScriptedCluster

__all__ = ["model_dir"]  # a fixture

PROMPTS = ((1,), (2,))
RATE, STEPS = 5e-3, 24


class SelfPlayCluster(ScriptedCluster):
    """Plays with the learner's policy."""

    def __init__(self, config: Config, model_dir: Path, dispatcher: Dispatcher) -> None:
        super().__init__(config, model_dir, dispatcher)
        self._sampler = LlamaForCausalLM.from_pretrained(model_dir)

    def sync(self, version: int) -> None:
        super().sync(version)
        self._sampler.load_state_dict(self._learner._model.state_dict())
        with torch.no_grad():
            logits = self._sampler(torch.tensor(PROMPTS)).logits[:, -1].double()
        self._logprobs = torch.log_softmax(logits, -1).numpy()

    def _episode(self, match: Match) -> Episode:
        rng = random.Random(match.seed)
        tokens = [rng.choices(range(VOCABULARY), np.exp(logprobs))[0] for logprobs in self._logprobs]
        value = 1.0 if sum(tokens) % 2 == 0 else -1.0
        turns = tuple(
            sampled(
                role,
                PROMPTS[role],
                (token,),
                (float(self._logprobs[role, token]),),
                version=self._version,
                action=str(token),
            )
            for role, token in enumerate(tokens)
        )
        return Episode(
            match=match, turns=turns, returns=(value, -value), end_reason="finished", forfeit_by=None, duration_s=0.0
        )

    def adjust(self, kl_factor: float, learning_rate_factor: float) -> None:
        self._learner.adjust(kl_factor, learning_rate_factor)


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trainer, "Cluster", SelfPlayCluster)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def train(directory: Path, model_dir: Path, learning_rate: float, **watchdog: Any) -> Run:
    tree = {
        "steps": STEPS,
        "model": {"name": str(model_dir)},
        "games": [{"id": "kuhn_poker"}],
        "run": {"dir": str(directory), "name": "run"},
        "rollout": {"episodes_per_step": 64, "answer_format": "bracket"},
        "learner": {"learning_rate": learning_rate, "local_batch_size": 32, "kl_coef": 0.05},
        "eval": {"every": 0},
        "checkpoint": {"every": 4},
        "monitor": {"sinks": []},
        "watchdog": watchdog,
    }
    return api.train(Config.model_validate(tree))


def entropies(run: Run) -> list[float]:
    return [row["train/entropy"] for row in run.metrics]


def test_a_healthy_run_gives_no_finding(tmp_path: Path, model_dir: Path) -> None:
    run = train(tmp_path, model_dir, RATE)
    assert WatchdogLog(run.directory).read() == []
    assert min(entropies(run)) > 0.2


def test_a_collapse_is_caught_in_ten_steps_and_lasts_if_nothing_is_done(tmp_path: Path, model_dir: Path) -> None:
    run = train(tmp_path, model_dir, 20 * RATE)
    first = next(entry for entry in WatchdogLog(run.directory).read() if entry.text.startswith("alarm: train/entropy"))
    began = next(step for step, entropy in enumerate(entropies(run), start=1) if entropy < 0.1)
    assert first.step <= began + 10
    assert max(entropies(run)[-5:]) < 0.01


def test_a_run_that_goes_back_with_lower_learning_rates_recovers(tmp_path: Path, model_dir: Path) -> None:
    """Each rollback goes further back than the one before, until it is early enough."""
    run = train(tmp_path, model_dir, 20 * RATE, action=("halve_lr", "rollback"), pause=0, patience=2)
    actions = [entry for entry in WatchdogLog(run.directory).read() if entry.action]
    assert [entry.action for entry in actions[:2]] == ["halve_lr", "rollback"]
    steps = [entry.to for entry in actions if entry.to is not None]
    assert steps == sorted(steps, reverse=True)
    assert verify(run.directory).faults == ()
    assert [row["step"] for row in run.metrics] == list(range(1, STEPS + 1))
    assert min(entropies(run)) > 0.1
