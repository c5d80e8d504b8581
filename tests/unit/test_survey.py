"""Asking the nodes of a cluster, without one as far as that goes; tests/integration/test_nodes.py has the rest."""

from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from spiral.cluster.placement import Node
from spiral.cluster.survey import _reason, seats_for
from spiral.config import Config, UserError


def test_the_reason_of_a_node_without_spiral_is_the_last_line() -> None:
    """What Ray says of an actor whose class cannot be imported, many lines long."""
    raised = "Traceback (most recent call last):\n  File ...\nModuleNotFoundError: No module named 'spiral'\n"
    error = ActorDiedError(RayTaskError("__init__", raised, RuntimeError("failed to import"), pid=1, ip="10.0.0.2"))
    assert _reason(error) == "ModuleNotFoundError: No module named 'spiral'"


def test_the_reason_is_what_was_raised() -> None:
    error = RayTaskError("facts", "Traceback ...", OSError(5, "Input/output error"), pid=1, ip="10.0.0.2")
    assert _reason(error) == "OSError: [Errno 5] Input/output error"
    assert "\n" not in _reason(ActorUnavailableError("the actor is\nunavailable", b"0" * 16))


def node(number: int, cpus: float) -> Node:
    return Node(id=f"n{number}", address="", hostname=f"node{number}", cpus=cpus, gpus=0.0, is_ours=number == 1)


def config(**generators: Any) -> Config:
    tree = {"steps": 1, "model": {"name": "m"}, "games": [{"id": "g"}], "learner": {"cpus": 2}}
    return Config.model_validate({**tree, "generators": {"cpus": 2, **generators}})


def test_seats_are_those_of_a_run() -> None:
    """The learner takes the cores of node 1, so that both generators are on node 2."""
    learner, generators = seats_for(config(count=2), [node(1, 2), node(2, 4)])
    assert [seat.node.id for seat in learner] == ["n1"]
    assert [seat.node.id for seat in generators] == ["n2", "n2"]


def test_a_run_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="3 generators with 2 CPUs and 0 GPUs each do not fit beside the learner"):
        seats_for(config(count=3), [node(1, 2), node(2, 4)])
