"""Which Ray actor runs on which device: the only place that decides it, and the only one that waits for actors.

Every wait has a limit. An actor that dies, raises or does not answer in time is named, with its log (RunFailed).
"""

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from spiral.config import Config, RunFailed, UserError
from spiral.game.solve import DecisionPoint
from spiral.learn.weights import publish_dirs
from spiral.rollout.environment import engine_environment
from spiral.types import Episode, Match

HEARTBEAT_S = 60.0
"""A generator whose event loop does not answer for so long is stuck, most likely inside a game."""

SAVE_GRACE_S = 120.0
"""A run that breaks waits so long for a checkpoint that is being written."""


@dataclass(slots=True)
class PendingEpisodes:
    """Matches that generators are playing: one (name, reference) per generator."""

    parts: list[tuple[str, Any]]
    num_matches: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Waiting for actors, whose logs are in `logs`."""

    logs: Path

    def get_all(self, asked: Sequence[tuple[str, Any]], limit: float, what: str) -> list[Any]:
        """The results of (name, reference) pairs, in order. Who fails first is named: the others may wait for it."""
        deadline = time.monotonic() + limit
        names = {reference: name for name, reference in asked}
        waiting = list(names)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            for reference in ready or waiting:  # nobody ready: `get` says who is late
                self.get(names[reference], reference, 0 if not ready else limit, what, limit)
        return [ray.get(reference) for _, reference in asked]

    def get(self, name: str, reference: Any, wait_s: float, what: str, limit_s: float | None = None) -> Any:
        """The result of one actor, or RunFailed with its name and log. An error that it raises on purpose is kept."""
        log = self.logs / f"{name}.log"
        try:
            return ray.get(reference, timeout=wait_s)
        except GetTimeoutError as error:
            raise RunFailed(f"{name} did not {what} within {limit_s or wait_s:.0f} s; its log: {log}") from error
        except RayActorError as error:
            raise RunFailed(f"{name} died; its log: {log}\n{_tail(log)}") from error
        except RayTaskError as error:
            if isinstance(error.cause, UserError | RunFailed | OSError | FloatingPointError):
                raise error.cause from None
            raise RunFailed(f"{name} failed to {what}:\n{error}\nits log: {log}") from error


class GeneratorsClient:
    """How the learner's weight transfer reaches the generators, in the words of vLLM's VLLMWeightSyncClient.

    Lives in the learner, which sets `version` before it sends.
    """

    def __init__(self, generators: dict[str, ActorHandle], gpus_each: int, wait: Wait, timeout_s: float) -> None:
        self.version = 0
        self._generators = generators
        self._gpus_each = gpus_each
        self._wait = wait
        self._timeout_s = timeout_s

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each generator's GPUs follow those of the one before in the group that they form with the learner."""
        first = init_info["rank_offset"]
        meetings = [init_info | {"rank_offset": first + i * self._gpus_each} for i in range(len(self._generators))]
        self._all("connect", [(meeting,) for meeting in meetings])

    def start_weight_update(self) -> None:
        self._all("begin_receive", [()] * len(self._generators))

    def update_weights(self, update_info: Any) -> None:
        self._all("receive", [(update_info,)] * len(self._generators))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._all("finish_receive", [(self.version,)] * len(self._generators))

    def shutdown_weight_transfer_engine(self) -> None:
        """Generators end with the run."""

    def _all(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        asked = [
            (name, getattr(generator, method).remote(*args))
            for (name, generator), args in zip(self._generators.items(), arguments, strict=True)
        ]
        self._wait.get_all(asked, self._timeout_s, f"answer {method}() for policy version {self.version}")


class Cluster:
    """The actors of a run: generators and the learner. A context manager: leaving it ends them."""

    def __init__(self, config: Config, model_dir: Path) -> None:
        self._config = config
        self._start_ray()
        # What an actor prints, vLLM and its processes included, is kept in the run directory.
        self._logs = (config.run_dir / "logs").resolve()
        self._logs.mkdir(parents=True, exist_ok=True)
        self._wait = Wait(self._logs)
        model_dir = model_dir.resolve()
        self._rendezvous = (config.run_dir / f".rendezvous-{uuid.uuid4().hex}").resolve()
        self._learners = [self._start_learner(index, model_dir) for index in range(config.learner.ranks)]
        self._generators = [self._start_generator(index, model_dir) for index in range(config.generators.count)]

    def _start_ray(self) -> None:
        """Join the cluster that RAY_ADDRESS names, or start Ray on this machine, on the loopback interface."""
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        local = {} if os.environ.get("RAY_ADDRESS") else {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
        needed = self._config.learner.gpus + self._config.generators.count * self._config.generators.gpus
        available = int(ray.cluster_resources().get("GPU", 0))
        if needed > available:
            raise UserError(f"this run needs {needed} GPUs, the Ray cluster has {available}")
        if self._config.weights.dir is None and sum(node["Alive"] for node in ray.nodes()) > 1:
            raise UserError("on several machines weights.dir must name a directory that all of them share")

    def _start_learner(self, index: int, model_dir: Path) -> ActorHandle:
        from spiral.learn.learner import Learner
        from spiral.learn.shard import Rank

        count = self._config.learner.ranks
        env = {"OMP_NUM_THREADS": str(max(1, _num_cores() // count))}
        if not os.environ.get("RAY_ADDRESS"):
            env["GLOO_SOCKET_IFNAME"] = "lo"
        rank = Rank(index, count, self._rendezvous)
        on_gpu = int(self._config.learner.gpus > 0)
        return _start_actor(Learner, self._rank_name(index), self._logs, on_gpu, env, self._config, model_dir, rank)

    def _start_generator(self, index: int, model_dir: Path) -> ActorHandle:
        from spiral.rollout.generator import Generator

        generators = self._config.generators
        env = engine_environment(generators)
        name = f"generator_{index}"
        return _start_actor(Generator, name, self._logs, generators.gpus, env, index, self._config, model_dir)

    def wait_until_ready(self) -> None:
        """Wait for engines and learner to have loaded the model."""
        limit = self._config.generators.start_timeout_s
        generators = [(self._name(i), generator) for i, generator in enumerate(self._generators)]
        learners = [(self._rank_name(i), learner) for i, learner in enumerate(self._learners)]
        self._wait.get_all([(name, generator.construct.remote()) for name, generator in generators], limit, "start")
        starting = [(name, generator.start.remote()) for name, generator in generators]
        starting += [(name, learner.construct.remote()) for name, learner in learners]
        self._wait.get_all(starting, limit, "start")
        if self._config.weights.transport == "nccl":
            gpus, timeout_s = self._config.generators.gpus, self._config.weights.timeout_s
            loopback = not os.environ.get("RAY_ADDRESS")
            client = GeneratorsClient(dict(generators), gpus, self._wait, timeout_s)
            self._ask_learner("connect", client, gpus * len(generators), loopback)

    # --- playing

    def begin_play(self, matches: Sequence[Match]) -> PendingEpisodes:
        """Deal `matches` out to the generators and return at once."""
        count = len(self._generators)
        shares = [list(matches[i::count]) for i in range(count)]
        parts = [(self._name(i), self._generators[i].play.remote(share)) for i, share in enumerate(shares) if share]
        return PendingEpisodes(parts, len(matches))

    def collect(self, pending: PendingEpisodes, progress: Callable[[int], None] = lambda _: None) -> list[Episode]:
        """Wait for the episodes, in match-id order; `progress(matches in flight)` is called each second."""
        limit = self._config.rollout.timeout_s
        deadline = time.monotonic() + limit
        names = {reference: name for name, reference in pending.parts}
        waiting, episodes = list(names), []
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
            if time.monotonic() > deadline:
                ready, waiting = ready + waiting, []
            for reference in ready:
                episodes += self._wait.get(names[reference], reference, HEARTBEAT_S, "return its matches", limit)
            if waiting:
                progress(sum(self._call(i, "num_in_flight", HEARTBEAT_S) for i in range(len(self._generators))))
        return sorted(episodes, key=lambda episode: episode.match.id)

    def play(self, matches: Sequence[Match]) -> list[Episode]:
        """Play `matches` and wait for their episodes."""
        return self.collect(self.begin_play(matches))

    def action_logprobs(self, game_id: str, points: Sequence[DecisionPoint]) -> list[tuple[float, ...]]:
        """The model's log-probability of each legal action at each decision point, from the first generator."""
        return self._call(0, "action_logprobs", self._config.rollout.timeout_s, game_id, list(points))  # type: ignore[no-any-return]

    # --- learning

    def learn(self, step: int, version: int, episodes: list[Episode]) -> dict[str, float]:
        """One training step on `episodes`; returns the learner's metrics."""
        return self._ask_learner("step", step, version, episodes)  # type: ignore[no-any-return]

    def sync(self, version: int) -> None:
        """Make the learner's weights policy version `version` on every generator."""
        if self._config.weights.transport == "nccl":
            self._ask_learner("send", version)
            return
        weights = self._ask_learner("publish", version)
        loading = [(self._name(i), generator.load.remote(weights)) for i, generator in enumerate(self._generators)]
        self._wait.get_all(loading, self._config.weights.timeout_s, f"load policy version {version}")

    def begin_save(self, state: dict[str, Any]) -> None:
        """Have the learner write the checkpoint of `state`, while it goes on. Returns once it has a copy to write."""
        self._ask_learner("begin_save", self._config.run_dir.resolve(), state)

    def finish_save(self) -> None:
        """Wait until the checkpoint is whole. Raises what stopped it, such as OSError."""
        self._ask_learner("finish_save")

    def load_learner(self, directory: Path) -> None:
        self._ask_learner("load", directory.resolve())

    # --- waiting

    def _ask_learner(self, method: str, *args: object) -> Any:
        """Call all ranks of the learner, which work together, and return what rank 0 does."""
        asked = [
            (self._rank_name(index), getattr(learner, method).remote(*args))
            for index, learner in enumerate(self._learners)
        ]
        return self._wait.get_all(asked, self._config.learner.timeout_s, method)[0]

    def _call(self, index: int, method: str, limit: float, *args: object) -> Any:
        reference = getattr(self._generators[index], method).remote(*args)
        return self._wait.get(self._name(index), reference, limit, method)

    @staticmethod
    def _name(index: int) -> str:
        return f"generator_{index}"

    def _rank_name(self, index: int) -> str:
        return "learner" if self._config.learner.ranks == 1 else f"learner_{index}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, KeyboardInterrupt):
            ray.wait([self._learners[0].finish_save.remote()], timeout=SAVE_GRACE_S)
        ray.shutdown()
        self._rendezvous.unlink(missing_ok=True)
        for directory in publish_dirs(self._config):
            shutil.rmtree(directory, ignore_errors=True)


def _start_actor(kind: type, name: str, logs: Path, gpus: int, env: dict[str, str], *args: object) -> ActorHandle:
    """Start a Ray actor whose output goes to `logs`/`name`.log. Its method `construct` makes it a `kind(*args)`.

    (A constructor that raises would kill the actor, and Ray would tell of its death instead of the error.)
    """

    class Actor(kind):  # type: ignore[misc]
        def __init__(self, log: Path, *args: object) -> None:
            _redirect_output(log)
            self._arguments = args

        def construct(self) -> None:
            super().__init__(*self._arguments)

    Actor.__name__ = kind.__name__
    # Ray would give an actor one thread; on a CPU the actors take turns, so each may use every core.
    env = {"OMP_NUM_THREADS": str(_num_cores()), "TOKENIZERS_PARALLELISM": "false", **env}
    options = {"num_cpus": 0, "num_gpus": gpus, "runtime_env": {"env_vars": env}}
    return ray.remote(**options)(Actor).remote(logs / f"{name}.log", *args)


def _redirect_output(log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
