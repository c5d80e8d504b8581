"""A run that is killed and resumed ends in the same state, bit for bit, as one that was never interrupted.

The main loop, the learner, the schedule and the files are the real ones. Generators, whose sampling is not
reproducible, are replaced by a script whose episodes are a pure function of the match.
"""

import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from spiral import api, trainer
from spiral.config import Config
from spiral.learn.weights.checkpoint import list_checkpoints, read_state
from spiral.monitor.files import MetricsFile
from spiral.storage.episode_files import EpisodeFiles
from spiral.verify import verify
from tests import processes
from tests.learners import model_dir
from tests.scripted_cluster import KILLED_IN_STEP, ScriptedCluster

__all__ = ["model_dir"]  # a fixture

RECIPE = {
    "reference_ema": 0.8,
    "reference_hold": 2,
    "entropy_coef": 0.05,
    "entropy_end": 0.01,
    "advantage": "prompt",
}
LEAGUE = {"opponents": {"policy": 1, "past": 2}, "past_every": 1, "past_keep": 3, "past_draw": "pfsp_hard"}
STEPS = 10
STEP_NAMES = "step_000005", f"step_{STEPS:06d}"
LIMIT_S = 240


def run(command: str, run_dir: Path, model_dir: Path, lora_rank: int) -> None:
    """The program of each process of the test."""
    trainer.Cluster = ScriptedCluster  # type: ignore[assignment, misc]
    if command == "resume":
        api.resume(run_dir)
        return
    tree = {
        "steps": STEPS,
        "model": {"name": str(model_dir)},
        "games": [{"id": "kuhn_poker"}, {"id": "tic_tac_toe", "weight": 2.0}],
        "run": {"dir": str(run_dir.parent), "name": run_dir.name},
        "rollout": {"episodes_per_step": 12, "answer_format": "bracket"},
        "learner": {
            "learning_rate": 1e-3,
            "lr_scheduler_type": "linear",
            "local_batch_size": 16,
            "kl_coef": 0.1,
            "lora_rank": lora_rank,
            "weight_ema": 0.9,
            **({"reference_refresh_every": 3} if lora_rank else RECIPE),
        },
        "eval": {"every": 0},
        "checkpoint": {"every": 5},
        **({"league": LEAGUE} if lora_rank else {}),
        "wandb": {"mode": "disabled"},
    }
    api.train(Config.model_validate(tree))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(
    model_dir: Path, tmp_path: Path, lora_rank: int
) -> None:
    def process(command: str, run_dir: Path, **environment: str) -> BaseProcess:
        return processes.start(run, command, run_dir, model_dir, lora_rank, **environment)

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    uninterrupted, doomed = process("train", straight), process("train", killed, KILL="1")
    assert processes.end(doomed, LIMIT_S) == -signal.SIGKILL
    assert [path.name for path in list_checkpoints(killed)] == ["step_000005"]
    assert [row["step"] for row in MetricsFile(killed).read()][-1] == KILLED_IN_STEP - 1
    assert processes.end(process("resume", killed), LIMIT_S) == 0
    assert processes.end(uninterrupted, LIMIT_S) == 0

    ends = [run_dir / "checkpoints" / f"step_{STEPS:06d}" for run_dir in (straight, killed)]
    tensors = sorted(path.relative_to(ends[0]) for path in ends[0].rglob("*.safetensors"))
    assert len(tensors) == 4, "the policy, its average, AdamW's moments and the reference"
    for name in tensors:
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes()
    one, other = (torch.load(end / "learner.pt", weights_only=True) for end in ends)
    assert one.keys() == {"updates", "scheduler", "num_averaged", "advantage", "torch_rng"}
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
        first, second = (EpisodeFiles(run_dir).read(step) for run_dir in (straight, killed))
        assert first == second
    assert_past_selves_are_equal(*ends, lora_rank)
    assert verify(straight).faults == verify(killed).faults == ()


def assert_past_selves_are_equal(one: Path, other: Path, lora_rank: int) -> None:
    """Both runs have the same past selves, with the same estimates, and keep no others than their checkpoints need."""
    states = [read_state(end)["past"] for end in (one, other)]
    assert states[0] == states[1]
    assert [state["episodes"] > 0 for state in states[0]][::3] == ([True, False] if lora_rank else []), "the ends"
    needed = [{f"policy@{state['version']}" for state in read_state(one.parent / name)["past"]} for name in STEP_NAMES]
    kept = [{path.name for path in (end.parents[1] / "league").glob("*")} for end in (one, other)]
    assert kept[0] == kept[1] == set.union(*needed)
    assert len(needed[1]) == (4 if lora_rank else 0), "three, and the one that was retired in the last step"
