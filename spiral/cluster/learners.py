"""The ranks of the learner, which work together and are called together."""

import uuid
from pathlib import Path
from typing import Any

import ray

from spiral.cluster.actors import Actor, start_actor
from spiral.cluster.placement import learner_placements
from spiral.cluster.waiting import Call, Waiter
from spiral.config import Config


class Learners:
    """Client of the learner's ranks."""

    def __init__(self, config: Config, model_dir: Path, waiter: Waiter) -> None:
        from spiral.learn.learner import Learner
        from spiral.learn.model.sharding import Rank

        self._waiter = waiter
        self._timeout_s = config.learner.timeout_s
        self._rendezvous = (config.run_dir / f".rendezvous-{uuid.uuid4().hex}").resolve()
        placements = learner_placements(config)
        self.actors: list[Actor] = [
            start_actor(
                Learner,
                placement,
                waiter.log(placement.name),
                config,
                model_dir,
                Rank(index, len(placements), self._rendezvous),
            )
            for index, placement in enumerate(placements)
        ]

    def call(self, method: str, *args: object) -> list[Call]:
        """Call a method of every rank, without waiting."""
        return [(actor.name, getattr(actor.handle, method).remote(*args)) for actor in self.actors]

    def ask(self, method: str, *args: object) -> Any:
        """Call a method of every rank and wait; returns the result of rank 0."""
        return self._waiter.get_all(self.call(method, *args), self._timeout_s, method)[0]

    def wait_for_checkpoint(self, limit_s: float) -> None:
        """Give a checkpoint that is being written `limit_s` seconds to complete. Raises nothing."""
        ray.wait([self.actors[0].handle.finish_save.remote()], timeout=limit_s)

    def stop(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor.handle)
        self._rendezvous.unlink(missing_ok=True)
