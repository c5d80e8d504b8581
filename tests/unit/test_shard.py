"""Sharded learners: as many processes as ranks, over gloo, against one process that is alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spiral.learn.learner import Learner
from spiral.learn.shard import Rank, deal, untied, whole
from tests.unit.test_learner import config, episodes, largest_difference, learner, model_dir, save

__all__ = ["model_dir"]  # a fixture

OPTIONS = {"kl_coef": 0.1, "reference_refresh_every": 2, "micro_batch_size": 1, "pack_tokens": 32}
STEPS = 3


def test_items_are_dealt_so_that_costs_are_even() -> None:
    costs = [1, 9, 2, 8, 3, 7]
    shares = deal(costs, 2)
    assert sorted(shares[0] + shares[1]) == list(range(6))
    assert sorted(sum(costs[i] for i in share) for share in shares) == [15, 15]


def test_more_ranks_than_items_leave_some_without() -> None:
    assert sorted(map(len, deal([5, 5], 3))) == [0, 1, 1]


def test_a_tied_tensor_is_counted_once_under_its_first_name() -> None:
    tensor, other = torch.ones(2), torch.ones(2)
    assert list(untied({"a": tensor, "b": other, "c": tensor})) == ["a", "b"]


def test_gathering_keeps_ties() -> None:
    tensor = torch.ones(2)
    gathered = whole({"a": tensor, "b": tensor, "c": torch.ones(2)})
    assert gathered["a"] is gathered["b"] is not gathered["c"]


LORA = {**OPTIONS, "lora_rank": 4}


def run_rank(index: int, count: int, model_dir: Path, out: Path, options: dict[str, Any]) -> None:
    """What each process of the test below does: train, save after two steps, and go on from there in the third."""
    torch.set_num_threads(1)
    settings = config(**options, local_batch_size=16 // count, epochs=1)
    one = Learner(settings, model_dir, Rank(index, count, out / "rendezvous"))
    for step in range(1, STEPS):
        one.step(step, step - 1, episodes(step, num=5))
    saved = save(one, out, STEPS - 1)
    torch.distributed.barrier()
    one.load(saved)
    metrics = one.step(STEPS, STEPS - 1, episodes(STEPS, num=5))
    save(one, out, STEPS)
    if index == 0:
        torch.save({name: value for name, value in metrics.items() if not name.startswith("perf/")}, out / "metrics.pt")
    torch.distributed.barrier()  # before anyone leaves
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("count", "options"), [(2, OPTIONS), (4, OPTIONS), (2, LORA)])
def test_ranks_together_train_like_one(model_dir: Path, tmp_path: Path, count: int, options: dict[str, Any]) -> None:
    """Weights, reference and metrics; also with samples that do not divide evenly, and after saving and loading."""
    program = "import json, sys; from pathlib import Path; from tests.unit.test_shard import run_rank; "
    program += "index, count, model_dir, out, options = sys.argv[1:]; "
    program += "run_rank(int(index), int(count), Path(model_dir), Path(out), json.loads(options))"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [str(count), str(model_dir), str(tmp_path), json.dumps(options)]
    ranks = [
        subprocess.Popen([sys.executable, "-c", program, str(index), *arguments], cwd=root, env=environment)
        for index in range(count)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * count

    alone = learner(model_dir, **options, local_batch_size=16, epochs=1)
    for step in range(1, STEPS + 1):
        expected = alone.step(step, step - 1, episodes(step, num=5))
    final = tmp_path / "checkpoints" / f"step_{STEPS:06d}"
    assert alone._reference is not None
    for directory, ours in ((final, alone._policy), (final / "reference", alone._reference)):
        assert largest_difference(alone._trainable.live(ours), alone._trainable.read(directory)) < 1e-5
    metrics = torch.load(tmp_path / "metrics.pt", weights_only=True)
    assert metrics.keys() == expected.keys() - {"perf/learn_s", "perf/trained_tokens_per_s"}
    for name, value in metrics.items():
        assert value == pytest.approx(expected[name], abs=1e-5), name
