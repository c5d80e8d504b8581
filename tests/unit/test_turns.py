"""Learner and engine in turns on one GPU: the order in which it changes hands, and their places."""

from typing import Any

import pytest

from spiral.cluster.placement import place_generators, place_learner
from spiral.cluster.turns import Turns
from spiral.config import Config, UserError, load_config
from tests.unit.test_placement import node


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
