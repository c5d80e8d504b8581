"""Which actors a run has, and what each of them gets: a name, GPUs and environment variables."""

import os
from dataclasses import dataclass

from spiral.config import Config
from spiral.machine import usable_cores
from spiral.rollout.environment import engine_environment


@dataclass(frozen=True, slots=True)
class Placement:
    """One actor: its name, the GPUs that Ray reserves for it, and its environment variables."""

    name: str
    num_gpus: int
    environment: dict[str, str]


def generator_placements(config: Config) -> list[Placement]:
    """One placement per generator."""
    environment = _environment() | engine_environment(config.generators)
    return [
        Placement(f"generator_{index}", config.generators.gpus, environment) for index in range(config.generators.count)
    ]


def learner_placements(config: Config) -> list[Placement]:
    """One placement per rank of the learner."""
    count = config.learner.ranks
    environment = _environment() | {"OMP_NUM_THREADS": str(max(1, len(usable_cores()) // count))}
    if not on_cluster():
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    names = ["learner"] if count == 1 else [f"learner_{index}" for index in range(count)]
    return [Placement(name, int(config.learner.gpus > 0), environment) for name in names]


def on_cluster() -> bool:
    """Whether actors may run on other machines."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _environment() -> dict[str, str]:
    # Ray would give an actor one thread; on a CPU the actors take turns, so each may use every core.
    return {"OMP_NUM_THREADS": str(len(usable_cores())), "TOKENIZERS_PARALLELISM": "false"}
