"""A running cluster: generators, a dispatcher that feeds them, and, in a training run, the learner."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from spiral.cluster.delivery import Delivery
from spiral.cluster.dispatcher import Arrival, Dispatcher
from spiral.cluster.evaluating import Evaluating, Played
from spiral.cluster.figures import FigureBook
from spiral.cluster.generators import Begin
from spiral.cluster.inbox import Inbox
from spiral.cluster.learners import Learners
from spiral.cluster.machines import LogCopies, Machines
from spiral.cluster.placement import Seat, place_learner
from spiral.cluster.reactor import Reactor
from spiral.cluster.session import ray_session
from spiral.cluster.turns import Turns
from spiral.cluster.weight_client import WeightClient
from spiral.cluster.weights import PublishedWeights
from spiral.config import Config, UserError
from spiral.game.solve import DecisionPoint
from spiral.league.past import PastSelves
from spiral.stop import Stop
from spiral.storage.shared_memory import SHARED_MEMORY, remove_stale
from spiral.types import POLICY, EpisodeHeader, Match, WeightsRef

LOGS_EVERY_S = 5.0
CLEAR_S = 2.0
"""Time for actors that were ended to die."""


class Cluster(Evaluating):
    """Generators and the learner of a training run, and what travels between them."""

    def __init__(
        self,
        config: Config,
        model_dir: Path,
        dispatcher: Dispatcher,
        past: PastSelves,
        stop: Stop,
        say: Callable[[str], None],
    ) -> None:
        if config.weights.dir is not None:  # the working directory of an actor is another
            absolute = config.weights.model_copy(update={"dir": config.weights.dir.absolute()})
            config = config.model_copy(update={"weights": absolute})
        logs = config.run_dir / "logs"
        self._config = config
        self._machines = Machines(config, model_dir, logs)
        reactor = Reactor(stop, config.checkpoint.grace_s)
        super().__init__(config, self._machines, reactor, dispatcher, say)
        self._inbox = Inbox(config.rollout.episodes_per_step)
        self._dispatcher = dispatcher
        self._past = past
        self._published_past: dict[int, PublishedWeights] = {}  # by version
        self._delivery = Delivery(self._inbox, reactor, lambda: self.learners.hosts, self._play_again)
        self.figures = FigureBook(self.generators)
        self._log_copies = LogCopies(logs, reactor.watch)
        self._logged_s = 0.0
        reactor.on_tick.append(self._collect_logs)

    @classmethod
    @contextmanager
    def of(
        cls,
        config: Config,
        model_dir: Path,
        dispatcher: Dispatcher,
        past: PastSelves,
        stop: Stop,
        say: Callable[[str], None],
    ) -> Iterator["Cluster"]:
        """Start the actors of a run, and end them when the block ends. Raises UserError if they do not fit."""
        with ray_session():
            cluster = cls(config, model_dir, dispatcher, past, stop, say)
            try:
                cluster._start_actors()
                yield cluster
            finally:
                cluster._stop_actors()
                _clear(config.weights.dir or SHARED_MEMORY)

    def _start_actors(self) -> None:
        seats = self._placed()
        self.learners = Learners(self._config, self._machines, self._reactor, seats)
        self.turns = Turns(self.generators, self.learners, is_shared=self._config.generators.colocated)
        self.generators.start(seats)

    def _placed(self) -> list[Seat]:
        """Seats for the learner. What an earlier run of this session has used may take Ray a moment to free."""
        deadline = time.monotonic() + CLEAR_S
        while True:
            try:
                seats = place_learner(self._config, self._machines.nodes())
                self.generators.require_room(seats)
            except UserError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return seats

    def _stop_actors(self) -> None:
        self.generators.stop()
        if hasattr(self, "learners"):
            self.learners.stop()

    def _collect_logs(self) -> None:
        now = time.monotonic()
        if now - self._logged_s > LOGS_EVERY_S:
            self._logged_s = now
            self._log_copies.collect([*self.learners.hosts, *self.generators.hosts()])

    # --- start

    def wait_until_ready(self, resumed_from: Path | None, version: int) -> None:
        """Wait until the learner has loaded the model or a checkpoint, and all generators play with its weights."""
        limit_s = self._config.generators.start_timeout_s
        self._require_run_dir()
        if self.turns.is_shared:  # one after the other: an engine takes what it finds free
            self.generators.wait_until("wait")
            self.turns.begin()
        self._reactor.get_all(self.learners.construct(), limit_s, "start", interruptible=True)
        if resumed_from is not None:
            self.learners.ask("load", resumed_from.absolute(), interruptible=True)
        self.generators.wait_until("wait")
        if self._config.weights.transport == "nccl":
            gpus, timeout_s = self._config.generators.gpus, self._config.weights.timeout_s
            hosts = self.generators.hosts()
            client = WeightClient(hosts, gpus, timeout_s)
            self.learners.ask("connect", client, gpus * len(hosts), self.learners.hosts[0].seat.node.address)
        self.sync(version)
        self.generators.wait_until("play")

    def _require_run_dir(self) -> None:
        """Raise UserError if a rank of the learner, on another machine, would write where the driver does not read."""
        config_file = self._config.run_dir.absolute() / "config.yaml"
        for host in self.learners.hosts:
            if host.seat.node.id == self._machines.ours:
                continue
            call = host.handle.has_file.remote(str(config_file), config_file.read_bytes())
            if not self._reactor.get(host, call, self._config.learner.timeout_s, "read the run directory"):
                raise UserError(
                    f"run.dir: {host.name} is on {host.seat.node.hostname}, which does not share "
                    f"{self._config.run.dir}; name a directory that the learner's machines share, or start the run on "
                    "a machine with room for the learner"
                )

    # --- a step

    def collect(self, progress: Callable[[int], None]) -> tuple[list[EpisodeHeader], list[EpisodeHeader], float]:
        """Wait for the next batch: (its episodes in match-id order, those void since the last, time spent on `due`).

        Once there are enough episodes, it may have to wait for older matches that would otherwise become too old.
        `progress` is called with the number of episodes that are there. Raises StopRequested.
        """
        full_s: float | None = None

        def done() -> bool:
            nonlocal full_s
            progress(len(self._inbox))
            if len(self._inbox.void) > self._config.rollout.episodes_per_step:
                most, last = self._config.rollout.episodes_per_step, self._inbox.void[-1]
                raise UserError(f"more than {most} matches of one step were void; the last: {last.error}")
            if not self._inbox.is_full():
                return False
            full_s = full_s or time.monotonic()
            oldest = self._dispatcher.version - self._config.rollout.max_staleness
            return not self._dispatcher.due() and not self._inbox.must_wait(oldest)

        self.turns.to_generators()
        self.generators.deal()
        self._reactor.wait(done, interruptible=True)
        void, self._inbox.void = self._inbox.void, []
        return self._inbox.take(), void, time.monotonic() - (full_s or time.monotonic())

    def play(self, matches: Sequence[Match]) -> Played:
        """See `Evaluating.play`."""
        self.turns.to_generators()
        return super().play(matches)

    def action_logprobs(
        self, game_id: str, points: Sequence[DecisionPoint], label: str = POLICY
    ) -> list[tuple[float, ...]]:
        """See `Evaluating.action_logprobs`."""
        self.turns.to_generators()
        return super().action_logprobs(game_id, points, label)

    def action_counts(self, game_id: str, points: Sequence[DecisionPoint], num_samples: int) -> list[tuple[int, ...]]:
        """See `Evaluating.action_counts`."""
        self.turns.to_generators()
        return super().action_counts(game_id, points, num_samples)

    def _on_episodes(self, arrivals: list[Arrival], episodes: Any) -> None:
        if not arrivals[0].trains:
            super()._on_episodes(arrivals, episodes)
            return
        self._inbox.void += [arrival.header for arrival in arrivals if arrival.header.end_reason == "void"]
        sound = [arrival for arrival in arrivals if arrival.header.end_reason != "void"]
        if sound:
            self._delivery.add(sound, episodes)

    def _play_again(self, matches: Sequence[Match]) -> None:
        """Their episodes were lost with their machine."""
        for match in matches:
            self._dispatcher.lost(match)
        self.generators.deal()

    def learn(self, step: int, version: int, match_ids: Sequence[int]) -> dict[str, float]:
        """One training step; returns the learner's metrics. Matches are played meanwhile, if staleness permits."""
        wait_s = self.turns.to_learner()
        metrics: dict[str, float] = self.learners.ask("train", step, version, list(match_ids))
        return metrics | ({"perf/turn_s": wait_s} if self.turns.is_shared else {})

    def adjust(self, kl_factor: float, learning_rate_factor: float) -> None:
        """From now on, the learner multiplies the config's kl_coef and learning_rate by these factors."""
        self.learners.ask("adjust", kl_factor, learning_rate_factor)

    def sync(self, version: int) -> None:
        """Publish the learner's weights to every generator as policy version `version`, with the past selves.

        If it is due, the version becomes one of them.
        """
        self._load_policy = self._publish(version, averaged=False)

    def _publish(self, version: int, *, averaged: bool) -> Begin | None:
        """Publish the policy or the average of its weights. Returns what loads it again, if that can be done."""
        self.turns.to_learner()
        if self._config.weights.transport == "nccl":
            self.learners.ask("send", version, averaged)
            self.generators.updated_together(version)
            return None
        weights: WeightsRef = self.learners.ask("publish", version, averaged)
        if not averaged:
            self._past.offer(weights, partial(self.learners.ask, "keep_published"))
        self._published_past = {
            one.version: self._published_past.get(one.version)
            or PublishedWeights(one, self.learners, self.generators.hosts)
            for one in self._past.adapters()
        }
        past = tuple(self._published_past.values())
        load = PublishedWeights(weights, self.learners, self.generators.hosts, past).load
        self.turns.to_new_weights()
        self.generators.update(version, load, self._past.admit)
        return load

    @contextmanager
    def averaged(self, version: int) -> Iterator[None]:
        """In the block, generators hold the average of the weights (`learner.weight_ema`) and play no training match.

        Those under way are played to their end first, with policy version `version`, which generators hold again
        afterwards. Raises StopRequested.
        """
        self._dispatcher.holds_training = True
        self._reactor.wait(lambda: not self._dispatcher.num_running, interruptible=True)
        self._publish(version, averaged=True)
        yield
        if self._load_policy is None:
            self.sync(version)
        else:
            self.generators.update(version, self._load_policy)
        self._dispatcher.holds_training = False
        self.generators.deal()

    def record(self, step: int) -> None:
        """Begin to write the episodes of `step` into the run directory."""
        self.learners.ask("record", self._config.run_dir.absolute(), step)

    def finish_record(self) -> None:
        """Wait until the episodes of the last step are on disk."""
        self.learners.ask("finish_record")

    # --- checkpoints

    def begin_save(self, state: dict[str, Any]) -> None:
        """Start writing the checkpoint of `state`. Returns as soon as the learner has a copy to write."""
        self.turns.to_learner()
        self.learners.ask("begin_save", self._config.run_dir.absolute(), state)

    def finish_save(self) -> None:
        """Wait until the checkpoint is complete. Raises what stopped it, such as OSError."""
        self.learners.ask("finish_save")


def _clear(parent: Path) -> None:
    """Remove what actors that had to be killed left of published weights on this machine, once they have died."""
    deadline = time.monotonic() + CLEAR_S
    while remove_stale(parent) and time.monotonic() < deadline:
        time.sleep(0.1)
