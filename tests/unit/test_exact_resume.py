"""A run that is killed and resumed ends where an undisturbed one ends, bit for bit.

The main loop, the learner, the schedule and the files are the real ones. Instead of generators, whose sampling cannot
be repeated, a script writes the episodes: a pure function of each match.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spiral import train
from spiral.config import Config
from spiral.learn.checkpoint import list_checkpoints
from spiral.learn.learner import Learner
from spiral.monitor.files import EpisodeFiles, MetricsFile
from spiral.types import Episode, Match
from tests.unit.test_learner import VOCABULARY, model_dir, sampled

__all__ = ["model_dir"]  # a fixture

STEPS, KILLED_IN_STEP = 10, 7


class ScriptedCluster:
    """The learner in this process, and a script in the place of generators. Kills its process in KILLED_IN_STEP."""

    def __init__(self, config: Config, model_dir: Path) -> None:
        torch.set_num_threads(1)
        self._config = config
        self._learner = Learner(config, model_dir)
        self._version = 0
        self.begin_save = lambda state: self._learner.begin_save(config.run_dir, state)
        self.finish_save = self._learner.finish_save
        self.load_learner = self._learner.load
        self.learn = self._learner.step
        self.begin_play = lambda matches: SimpleNamespace(matches=matches, num_matches=len(matches))

    def __enter__(self) -> "ScriptedCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._learner.finish_save()

    def wait_until_ready(self) -> None:
        pass

    def sync(self, version: int) -> None:
        assert self._learner.publish(version) is not None
        self._version = version

    def collect(self, pending: Any, progress: Callable[[int], None]) -> Sequence[Episode]:
        if self._version + 1 == KILLED_IN_STEP and os.environ.get("KILL"):
            while not list_checkpoints(self._config.run_dir):  # it is being written
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return [self._episode(match) for match in pending.matches]

    def _episode(self, match: Match) -> Episode:
        rng = random.Random(match.seed)

        def tokens(least: int, most: int) -> tuple[int, ...]:
            return tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(least, most)))

        turns = [
            sampled(turn % 2, tokens(2, 9), written, tuple(rng.uniform(-4, -3) for _ in written), self._version)
            for turn in range(rng.randint(2, 5))
            for written in [tokens(1, 4)]
        ]
        value = rng.choice((-1.0, 0.0, 1.0))
        return Episode(
            match=match,
            turns=tuple(turns),
            returns=(value, -value),
            end_reason="finished",
            forfeit_by=None,
            duration_s=0.0,
        )


def run(command: str, run_dir: Path, model_dir: Path, extra: str) -> None:
    """What each process of the test does."""
    train.Cluster = ScriptedCluster  # type: ignore[assignment, misc]
    if command == "resume":
        sys.exit(train.resume(run_dir, []))
    learner = {"learning_rate": 1e-3, "lr_scheduler_type": "linear", "local_batch_size": 16, "kl_coef": 0.1}
    learner |= {"reference_refresh_every": 3, "lora_rank": 4} if extra == "lora" else {"reference_refresh_every": 3}
    tree = {
        "steps": STEPS,
        "model": {"name": str(model_dir)},
        "games": [{"id": "kuhn_poker"}, {"id": "tic_tac_toe", "weight": 2.0}],
        "run": {"dir": str(run_dir.parent), "name": run_dir.name},
        "rollout": {"episodes_per_step": 12, "answer_format": "bracket"},
        "learner": learner,
        "eval": {"every": 0},
        "checkpoint": {"every": 5},
        "wandb": {"mode": "disabled"},
    }
    sys.exit(train.start(Config.model_validate(tree)))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("extra", ["all_weights", "lora"])
def test_killed_and_resumed_ends_where_an_undisturbed_run_does(model_dir: Path, tmp_path: Path, extra: str) -> None:
    def process(command: str, run_dir: Path, **environment: str) -> subprocess.Popen[bytes]:
        program = "import sys; from pathlib import Path; from tests.unit.test_exact_resume import run; "
        program += "run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])"
        arguments = [sys.executable, "-c", program, command, str(run_dir), str(model_dir), extra]
        root, environment = Path(__file__).parents[2], os.environ | environment
        return subprocess.Popen(arguments, cwd=root, env=environment, stdout=subprocess.DEVNULL)

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    undisturbed, doomed = process("start", straight), process("start", killed, KILL="1")
    assert doomed.wait(120) == -signal.SIGKILL
    assert [path.name for path in list_checkpoints(killed)] == ["step_000005"]
    assert [row["step"] for row in MetricsFile(killed).read()][-1] == KILLED_IN_STEP - 1
    assert process("resume", killed).wait(120) == 0
    assert undisturbed.wait(120) == 0

    ends = [run_dir / "checkpoints" / f"step_{STEPS:06d}" for run_dir in (straight, killed)]
    weights = sorted(path.relative_to(ends[0]) for path in ends[0].rglob("*.safetensors"))
    assert len(weights) == 2, "the policy and the reference"
    for name in weights:
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes()
    one, other = (torch.load(end / "learner.pt", weights_only=True) for end in ends)
    assert one.keys() == {"optimizer", "scheduler", "baselines", "torch_rng"}
    assert equal(one, other)
    rows = [
        [
            {key: value for key, value in row.items() if not key.startswith("perf/")}
            for row in MetricsFile(run_dir).read()
        ]
        for run_dir in (straight, killed)
    ]
    assert len(rows[0]) == STEPS
    assert rows[0] == rows[1]
    for step in range(1, STEPS + 1):
        first, second = (list(EpisodeFiles(run_dir).read(step)) for run_dir in (straight, killed))
        assert first == second
