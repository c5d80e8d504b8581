"""The generators of a run, or of an evaluation without a learner."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from spiral.cluster.actors import Actor, start_actor
from spiral.cluster.placement import generator_placements
from spiral.cluster.session import ray_session
from spiral.cluster.waiting import Call, Waiter
from spiral.config import Config
from spiral.game.solve import DecisionPoint
from spiral.types import Episode, Match, WeightsRef

HEARTBEAT_S = 60.0
"""A generator whose event loop does not answer within this time is stuck, most likely inside a game."""


@dataclass(slots=True)
class PendingEpisodes:
    """Matches that generators are playing: one call per generator."""

    calls: list[Call]
    num_matches: int


class Generators:
    """Client of the generator actors."""

    def __init__(self, config: Config, model_dir: Path, waiter: Waiter) -> None:
        from spiral.rollout.generator import Generator

        self._config = config
        self._waiter = waiter
        self.actors: list[Actor] = [
            start_actor(Generator, placement, waiter.log(placement.name), index, config, model_dir)
            for index, placement in enumerate(generator_placements(config))
        ]

    def construct(self) -> None:
        """Construct the generators: fast, but it imports their modules."""
        self._waiter.get_all(self.call("construct"), self._config.generators.start_timeout_s, "start")

    def call(self, method: str, *args: object) -> list[Call]:
        """Call a method of every generator, without waiting."""
        return [(actor.name, getattr(actor.handle, method).remote(*args)) for actor in self.actors]

    def load(self, weights: WeightsRef) -> None:
        """Make every generator sample with `weights`."""
        limit_s = self._config.weights.timeout_s
        self._waiter.get_all(self.call("load", weights), limit_s, f"load policy version {weights.version}")

    def begin_play(self, matches: Sequence[Match]) -> PendingEpisodes:
        """Distribute `matches` over the generators, without waiting."""
        count = len(self.actors)
        shares = [(actor, list(matches[i::count])) for i, actor in enumerate(self.actors)]
        return PendingEpisodes(
            [(actor.name, actor.handle.play.remote(share)) for actor, share in shares if share], len(matches)
        )

    def collect(self, pending: PendingEpisodes, progress: Callable[[int], None] = lambda _: None) -> list[Episode]:
        """Wait for the episodes, in match-id order; `progress(matches in flight)` is called each second."""
        limit_s = self._config.rollout.timeout_s
        deadline = time.monotonic() + limit_s
        names = {reference: name for name, reference in pending.calls}
        waiting, episodes = list(names), list[Episode]()
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
            for reference in ready:
                episodes += self._waiter.get(names[reference], reference, HEARTBEAT_S, "return its matches")
            if waiting and time.monotonic() > deadline:
                raise self._waiter.late(names[waiting[0]], limit_s, "return its matches")
            if waiting:
                progress(sum(self._waiter.get_all(self.call("num_in_flight"), HEARTBEAT_S, "answer")))
        return sorted(episodes, key=lambda episode: episode.match.id)

    def play(self, matches: Sequence[Match]) -> list[Episode]:
        """Play `matches` and wait for their episodes, which come in match-id order."""
        return self.collect(self.begin_play(matches))

    def action_logprobs(self, game_id: str, points: Sequence[DecisionPoint]) -> list[tuple[float, ...]]:
        """The policy's log-probability of each legal action at each decision point, from the first generator."""
        first = self.actors[0]
        reference = first.handle.action_logprobs.remote(game_id, list(points))
        limit_s = self._config.rollout.timeout_s
        return self._waiter.get(first.name, reference, limit_s, "score actions")  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End the actors and their engines."""
        for actor in self.actors:
            ray.kill(actor.handle)


@contextmanager
def running_generators(config: Config, model_dir: Path, adapter_dir: Path | None = None) -> Iterator[Generators]:
    """Generators without a learner, ready to play with the model in `model_dir` (and a LoRA adapter on top)."""
    with (
        tempfile.TemporaryDirectory(prefix="spiral-logs-") as logs,
        ray_session(config.generators.count * config.generators.gpus),
    ):
        waiter = Waiter(Path(logs))
        generators = Generators(config, model_dir.resolve(), waiter)
        try:
            generators.construct()
            waiter.get_all(generators.call("start"), config.generators.start_timeout_s, "start")
            if adapter_dir is not None:
                generators.load(WeightsRef(version=0, location=str(adapter_dir.resolve()), is_adapter=True))
            yield generators
        finally:
            generators.stop()
