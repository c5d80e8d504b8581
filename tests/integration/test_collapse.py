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
from spiral.league.past import PastSelves
from spiral.monitor.watchdog import WatchdogLog
from spiral.run import Run
from spiral.types import Episode, Match
from spiral.verify import verify
from tests.builders import sampled
from tests.learners import VOCABULARY, model_dir
from tests.scripted_cluster import ScriptedCluster

__all__ = ["model_dir"]  # a fixture

PROMPTS = ((1,), (2,))
RATE, STEPS = 5e-3, 60


class SelfPlayCluster(ScriptedCluster):
    """Plays with the learner's policy."""

    def __init__(self, config: Config, model_dir: Path, dispatcher: Dispatcher, past: PastSelves) -> None:
        super().__init__(config, model_dir, dispatcher, past)
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


def train(
    directory: Path, model_dir: Path, learning_rate: float, *, seed: int = 0, steps: int = STEPS, **watchdog: Any
) -> Run:
    tree = {
        "seed": seed,
        "steps": steps,
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


def collapsed(run: Run) -> int:
    """The number of steps in which the policy hardly explores."""
    return sum(entropy < 0.1 for entropy in entropies(run))


def test_a_healthy_run_gives_no_finding(tmp_path: Path, model_dir: Path) -> None:
    run = train(tmp_path, model_dir, RATE, steps=24)
    assert WatchdogLog(run.directory).read() == []
    assert collapsed(run) == 0


@pytest.mark.parametrize("seed", [0, 3])
def test_a_collapse_is_caught_in_ten_steps_and_undone(tmp_path: Path, model_dir: Path, seed: int) -> None:
    """Seeds 0 to 7 collapse in 12 to 51 of the steps if nothing is done, and else in 0 to 4.

    Each rollback goes further back than the one before, until it is early enough.
    """
    warned = train(tmp_path / "warned", model_dir, 20 * RATE, seed=seed)
    first = next(
        entry for entry in WatchdogLog(warned.directory).read() if entry.text.startswith("alarm: train/entropy")
    )
    began = next(step for step, entropy in enumerate(entropies(warned), start=1) if entropy < 0.1)
    assert first.step <= began + 10
    assert collapsed(warned) > STEPS / 10

    actions = ("halve_lr", "halve_lr", "rollback")
    acted = train(tmp_path / "acted", model_dir, 20 * RATE, seed=seed, action=actions, pause=0, patience=1)
    taken = [entry for entry in WatchdogLog(acted.directory).read() if entry.action]
    assert tuple(entry.action for entry in taken[:3]) == actions
    steps = [entry.to for entry in taken if entry.to is not None]
    assert steps == sorted(steps, reverse=True)
    assert verify(acted.directory).faults == ()
    assert [row["step"] for row in acted.metrics] == list(range(1, STEPS + 1))
    assert collapsed(acted) <= STEPS / 10
