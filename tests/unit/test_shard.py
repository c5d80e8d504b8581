"""Sharded learners: as many processes as ranks, over gloo, against one process that is alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from spiral.learn.learner import Learner
from spiral.learn.shard import Rank, deal, whole
from tests.unit.test_learner import config, episodes, largest_difference, learner, model_dir, weights

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


def test_gathering_keeps_ties() -> None:
    tensor = torch.ones(2)
    gathered = whole({"a": tensor, "b": tensor, "c": torch.ones(2)})
    assert gathered["a"] is gathered["b"] is not gathered["c"]


def run_rank(index: int, count: int, model_dir: Path, out: Path) -> None:
    """What each process of the test below does: train, save after two steps, and go on from there in the third."""
    torch.set_num_threads(1)
    settings = config(**OPTIONS, local_batch_size=16 // count, epochs=1)
    one = Learner(settings, model_dir, Rank(index, count, out / "rendezvous"))
    for step in range(1, STEPS):
        one.step(step, step - 1, episodes(step, num=5))
    (out / "saved").mkdir(exist_ok=True)
    one.save(out / "saved")
    torch.distributed.barrier()
    one.load(out / "saved")
    metrics = one.step(STEPS, STEPS - 1, episodes(STEPS, num=5))
    (out / "final").mkdir(exist_ok=True)
    one.save(out / "final")
    if index == 0:
        torch.save({name: value for name, value in metrics.items() if not name.startswith("perf/")}, out / "metrics.pt")
    torch.distributed.barrier()  # before anyone leaves
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_together_train_like_one(model_dir: Path, tmp_path: Path, count: int) -> None:
    """Weights, reference and metrics; also with samples that do not divide evenly, and after saving and loading."""
    program = "import sys; from pathlib import Path; from tests.unit.test_shard import run_rank; "
    program += "run_rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [str(count), str(model_dir), str(tmp_path)]
    ranks = [
        subprocess.Popen([sys.executable, "-c", program, str(index), *arguments], cwd=root, env=environment)
        for index in range(count)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * count

    alone = learner(model_dir, **OPTIONS, local_batch_size=16, epochs=1)
    for step in range(1, STEPS + 1):
        expected = alone.step(step, step - 1, episodes(step, num=5))
    sharded = LlamaForCausalLM.from_pretrained(tmp_path / "final").state_dict()
    assert largest_difference(weights(alone), sharded) < 1e-5
    reference = LlamaForCausalLM.from_pretrained(tmp_path / "final" / "reference").state_dict()
    assert alone._reference is not None
    assert largest_difference(reference, alone._reference.model.state_dict()) < 1e-5
    metrics = torch.load(tmp_path / "metrics.pt", weights_only=True)
    assert metrics.keys() == expected.keys() - {"perf/learn_s", "perf/trained_tokens_per_s"}
    for name, value in metrics.items():
        assert value == pytest.approx(expected[name], abs=1e-5), name
