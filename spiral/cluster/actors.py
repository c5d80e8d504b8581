"""Launching Ray actors."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.actor import ActorHandle

from spiral.cluster.placement import Placement


@dataclass(frozen=True, slots=True)
class Actor:
    """A running actor. Calls of its methods are made through `handle`."""

    name: str
    handle: ActorHandle


def start_actor(kind: type, placement: Placement, log: Path, *args: object) -> Actor:
    """Start a Ray actor whose output goes to `log`. Its method `construct` makes it a `kind(*args)`.

    (An exception in a constructor would kill the actor, and Ray would report the death instead of the exception.)
    """

    class RayActor(kind):  # type: ignore[misc]
        def __init__(self, log: Path, *args: object) -> None:
            _redirect_output(log)
            self._arguments = args

        def construct(self) -> None:
            super().__init__(*self._arguments)

    RayActor.__name__ = kind.__name__
    options = {"num_cpus": 0, "num_gpus": placement.num_gpus, "runtime_env": {"env_vars": placement.environment}}
    return Actor(placement.name, ray.remote(**options)(RayActor).remote(log, *args))


def _redirect_output(log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
