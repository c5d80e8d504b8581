"""Learner and engine in turns on one GPU: the learner's memory, and the order in which the GPU changes hands."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spiral.cluster.placement import place_generators, place_learner
from spiral.cluster.turns import Turns
from spiral.config import Config, UserError, load_config
from spiral.learn.learner import Learner
from spiral.learn.model.reference import Reference
from spiral.learn.model.sharding import local_rows, weights_at_rest
from tests.unit.test_learner import LORA, episodes, learner, model_dir, save, weights
from tests.unit.test_parameters import tied_dir
from tests.unit.test_placement import node

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


class Recorder:
    """Stands for generators and learners, and notes what they are told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def sleep(self) -> None:
        self.told.append("engine sleeps")

    def wake(self) -> None:
        self.told.append("engine wakes")

    def ask(self, method: str) -> None:
        self.told.append(f"learner: {method}")


def turns(*, is_shared: bool) -> tuple[Turns, list[str]]:
    recorder: Any = Recorder()
    return Turns(recorder, recorder, is_shared=is_shared), recorder.told


def test_the_gpu_is_free_before_it_changes_hands() -> None:
    taken, told = turns(is_shared=True)
    taken.begin()  # the learner starts, and publishes the first weights
    taken.to_new_weights()
    for _ in range(2):
        taken.to_generators()  # it has the turn: nothing to do
    taken.to_learner()  # trains,
    taken.to_new_weights()  # and publishes;
    taken.to_learner()  # a checkpoint
    taken.to_generators()  # before the next batch is played
    assert told == [
        *("engine sleeps", "learner: offload"),
        *("engine sleeps", "learner: restore", "learner: offload"),
        *("engine sleeps", "learner: restore", "learner: offload", "engine wakes"),
    ]


def test_without_colocation_nobody_waits_for_a_turn() -> None:
    taken, told = turns(is_shared=False)
    taken.begin()
    taken.to_learner()
    taken.to_new_weights()
    taken.to_generators()
    assert told == []


def one_gpu(*overrides: str) -> Config:
    return load_config("qwen3_0.6b_one_gpu", overrides)


def test_learner_and_generator_have_halves_of_one_gpu() -> None:
    config = one_gpu()
    assert config.num_gpus == 1
    machines = [node(1, gpus=0), node(2, gpus=1), node(3, gpus=4)]
    (learner_seat,) = place_learner(config, machines)
    (seat,) = place_generators(config, [node(1), node(2), node(3, gpus=3.5)], [learner_seat])
    assert learner_seat.node.hostname == seat.node.hostname == "node3"
    assert learner_seat.gpus == seat.gpus == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generators.count=2", "for one generator and one rank"),
        ("learner.gpus=2", "for one generator and one rank"),
        ("generators.gpus=2", "for one generator and one rank"),
        ("rollout.max_staleness=1", "set rollout.max_staleness to 0"),
    ],
)
def test_what_cannot_take_turns_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        one_gpu(override)
