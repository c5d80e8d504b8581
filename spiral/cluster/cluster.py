"""The actors of a training run: generators and the learner."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spiral.cluster.generators import Generators
from spiral.cluster.learners import Learners
from spiral.cluster.placement import on_cluster
from spiral.cluster.session import num_nodes, ray_session
from spiral.cluster.waiting import Waiter
from spiral.cluster.weight_client import WeightClient
from spiral.config import Config, UserError
from spiral.learn.weights.publish import publish_dirs
from spiral.types import Episode

SAVE_GRACE_S = 120.0
"""Time for a checkpoint that is being written when a run fails."""


class Cluster:
    """The generators and the learner, and the weights that travel between them."""

    def __init__(self, config: Config, generators: Generators, learners: Learners, waiter: Waiter) -> None:
        self.generators = generators
        self._config = config
        self._learners = learners
        self._waiter = waiter

    @classmethod
    @contextmanager
    def of(cls, config: Config, model_dir: Path) -> Iterator["Cluster"]:
        """Start the actors of a run, and end them when the block ends. Raises UserError if they do not fit."""
        logs = (config.run_dir / "logs").resolve()
        logs.mkdir(parents=True, exist_ok=True)
        waiter, model_dir = Waiter(logs), model_dir.resolve()
        with ray_session(config.num_gpus):
            if config.weights.dir is None and num_nodes() > 1:
                raise UserError("on several machines weights.dir must name a directory that all of them share")
            learners = Learners(config, model_dir, waiter)
            generators = Generators(config, model_dir, waiter)
            try:
                yield cls(config, generators, learners, waiter)
            except KeyboardInterrupt:
                raise
            except BaseException:
                learners.wait_for_checkpoint(SAVE_GRACE_S)
                raise
            finally:
                learners.stop()
                generators.stop()
                for directory in publish_dirs(config):
                    shutil.rmtree(directory, ignore_errors=True)

    def wait_until_ready(self) -> None:
        """Wait until the engines and the learner have loaded the model."""
        limit_s = self._config.generators.start_timeout_s
        self.generators.construct()
        self._waiter.get_all(self.generators.call("start") + self._learners.call("construct"), limit_s, "start")
        if self._config.weights.transport == "nccl":
            gpus, timeout_s = self._config.generators.gpus, self._config.weights.timeout_s
            client = WeightClient(self.generators.actors, gpus, self._waiter, timeout_s)
            self._learners.ask("connect", client, gpus * len(self.generators.actors), not on_cluster())

    def learn(self, step: int, version: int, episodes: list[Episode]) -> dict[str, float]:
        """One training step on `episodes`; returns the learner's metrics."""
        return self._learners.ask("step", step, version, episodes)  # type: ignore[no-any-return]

    def sync(self, version: int) -> None:
        """Publish the learner's weights to every generator as policy version `version`."""
        if self._config.weights.transport == "nccl":
            self._learners.ask("send", version)
        else:
            self.generators.load(self._learners.ask("publish", version))

    def begin_save(self, state: dict[str, Any]) -> None:
        """Start writing the checkpoint of `state`. Returns as soon as the learner has a copy to write."""
        self._learners.ask("begin_save", self._config.run_dir.resolve(), state)

    def finish_save(self) -> None:
        """Wait until the checkpoint is complete. Raises what stopped it, such as OSError."""
        self._learners.ask("finish_save")

    def load_learner(self, checkpoint: Path) -> None:
        """Restore the learner from a checkpoint."""
        self._learners.ask("load", checkpoint.resolve())
