"""A learner that gives up its device's memory. Without Ray, so that `make gpu` can use it where only torch is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spiral.learn.learner import Learner
from spiral.learn.model.reference import Reference
from spiral.learn.model.sharding import local_rows, weights_at_rest
from tests.learners import LORA, episodes, learner, model_dir, save, weights
from tests.unit.test_parameters import tied_dir

__all__ = ["model_dir", "tied_dir"]  # fixtures


def bytes_on_device(one: Learner) -> int:
    wrappers = [one._policy, *([one._reference] if isinstance(one._reference, Reference) else [])]
    tensors = [tensor for wrapper in wrappers for tensor in weights_at_rest(wrapper).values()]
    return sum(local_rows(tensor)[0].untyped_storage().nbytes() for tensor in [*tensors, *one._optimizer.tensors()])


@pytest.mark.parametrize(
    "options",
    [{"kl_coef": 0.1}, {"kl_coef": 0.1, "dtype": "bfloat16"}, LORA, {**LORA, "dtype": "bfloat16"}],
    ids=["float32", "bfloat16", "lora", "lora-bfloat16"],
)
def test_a_learner_that_was_away_continues_bit_for_bit(
    model_dir: Path, tied_dir: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    (tied_dir / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    stayed, left = (learner(tied_dir, **options) for _ in range(2))
    for step in (1, 2):
        expected = stayed.step(step, step - 1, episodes(step))
        left.receive(episodes(step))
        metrics = left.train(step, step - 1, [episode.match.id for episode in episodes(step)])
        assert {name: metrics[name] for name in ("train/loss", "train/grad_norm", "train/kl")} == {
            name: expected[name] for name in ("train/loss", "train/grad_norm", "train/kl")
        }
        left.offload()
        assert bytes_on_device(left) == 0
        left.record(tmp_path, step)
        left.restore()
    assert bytes_on_device(left) == bytes_on_device(stayed) > 0
    one, other = weights(stayed), weights(left)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_is_written_before_its_tensors_leave(model_dir: Path, tmp_path: Path) -> None:
    one = learner(model_dir)
    one.step(1, 0, episodes(1))
    one.begin_save(tmp_path, {"step": 1})
    one.offload()
    one.finish_save()
    one.restore()
    loaded = learner(model_dir)
    loaded.load(save(one, tmp_path / "again"))
    same = learner(model_dir)
    same.load(tmp_path / "checkpoints" / "step_000001")
    assert all(torch.equal(tensor, weights(same)[name]) for name, tensor in weights(loaded).items())
