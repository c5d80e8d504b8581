"""Collapses that are provoked: by a learning rate 20 times too high, and by advantages that reward illegal answers.

Loop, learner, schedule and files are the real ones. The policy plays matching pennies with itself: each role writes a
token, and the first wins if their sum is even; who writes SILENCE forfeits. It is sampled here, without vLLM.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from spiral import api, trainer
from spiral.cluster.dispatcher import Dispatcher
from spiral.config import Config, RunFailed
from spiral.league.past import PastSelves
from spiral.learn.baselines import RoleBaselines
from spiral.monitor.watchdog import WatchdogLog
from spiral.run import Run
from spiral.types import Episode, EpisodeHeader, Match
from spiral.verify import verify
from tests.builders import sampled
from tests.learners import VOCABULARY, model_dir
from tests.scripted_cluster import ScriptedCluster

__all__ = ["model_dir"]  # a fixture

PROMPTS = ((1,), (2,))
RATE, STEPS = 5e-3, 60
SILENCE = 0


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
        silent = tokens.index(SILENCE) if SILENCE in tokens else None
        first_wins = sum(tokens) % 2 == 0 if silent is None else silent == 1
        value = 1.0 if first_wins else -1.0
        turns = tuple(
            sampled(
                role,
                PROMPTS[role],
                (token,),
                (float(self._logprobs[role, token]),),
                version=self._version,
                action=str(token),
                legal=role != silent,
            )
            for role, token in enumerate(tokens)
            if silent is None or role <= silent
        )
        return Episode(
            match=match,
            turns=turns,
            returns=(value, -value),
            end_reason="finished" if silent is None else "forfeit",
            forfeit_by=silent,
            duration_s=0.0,
        )

    def adjust(self, kl_factor: float, learning_rate_factor: float) -> None:
        self._learner.adjust(kl_factor, learning_rate_factor)


class PaidSilence(RoleBaselines):
    """Advantages with a mistake: what an illegal answer costs has the wrong sign."""

    def score(self, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        return [
            [advantage + 3.0 * (not turn.legal) for advantage, turn in zip(advantages, header.turns, strict=True)]
            for advantages, header in zip(super().score(headers), headers, strict=True)
        ]


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trainer, "Cluster", SelfPlayCluster)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def train(
    directory: Path,
    model_dir: Path,
    learning_rate: float,
    *,
    seed: int = 0,
    steps: int = STEPS,
    advantage: str = "rae",
    **watchdog: Any,
) -> Run:
    tree = {
        "seed": seed,
        "steps": steps,
        "model": {"name": str(model_dir)},
        "games": [{"id": "kuhn_poker"}],
        "run": {"dir": str(directory), "name": "run"},
        "rollout": {"episodes_per_step": 64, "answer_format": "bracket"},
        "learner": {"learning_rate": learning_rate, "local_batch_size": 32, "kl_coef": 0.05, "advantage": advantage},
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


@pytest.mark.parametrize("seed", [0, 3])
def test_a_reward_for_silence_is_caught_in_ten_steps(tmp_path: Path, model_dir: Path, seed: int) -> None:
    """No roll-back mends the advantages: what is saved is the time until somebody looks."""
    wrong = {"seed": seed, "advantage": f"{__name__}:PaidSilence"}
    warned = train(tmp_path / "warned", model_dir, RATE, steps=30, **wrong)
    silent = [row["rollout/illegal_rate"] for row in warned.metrics]
    assert silent[0] < 0.1
    assert silent[-1] > 0.9
    began = next(step for step, share in enumerate(silent, start=1) if share > 0.3)
    first = next(entry for entry in WatchdogLog(warned.directory).read() if entry.text.startswith("alarm"))
    assert "forfeit_rate" in first.text
    assert first.step <= began + 10

    with pytest.raises(RunFailed, match="stopped by watchdog.action: .*forfeit_rate"):
        train(tmp_path / "acted", model_dir, RATE, steps=30, action=("rollback", "stop"), pause=0, patience=1, **wrong)
    acted = Run.open(tmp_path / "acted" / "run")
    assert [entry.action for entry in WatchdogLog(acted.directory).read() if entry.action] == ["rollback", "stop"]
    assert acted.metrics[-1]["step"] <= first.step + 10
    assert verify(acted.directory).faults == ()
