"""Generators as an evaluation uses them: alone, or those of a training run, which play for the learner as well."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from spiral.cluster.dispatcher import Arrival, Dispatcher
from spiral.cluster.generators import Generators
from spiral.cluster.hosts import Host
from spiral.cluster.machines import Machines
from spiral.cluster.reactor import Reactor
from spiral.cluster.scoring import shared_out
from spiral.cluster.session import ray_session
from spiral.config import Config
from spiral.game.solve import DecisionPoint
from spiral.stop import Stop
from spiral.types import POLICY, Episode, EpisodeHeader, Match, Response, WeightsRef

RESPONSE_CALLS = 2
"""Calls for responses under way in a generator: while one waits for its longest response, the other keeps it busy."""


class Played:
    """Matches of an evaluation that were played. Their episodes stay in the object store until they are asked for."""

    def __init__(self, headers: Sequence[EpisodeHeader], chunks: dict[int, Any]) -> None:
        self.headers = headers
        self._chunks = chunks  # match id -> reference to a list of episodes with that of the match

    def episodes(self, match_ids: Sequence[int]) -> list[Episode]:
        """The episodes of these matches, without those that are void or were lost with their machine."""
        found = []
        for match_id in match_ids:
            if match_id in self._chunks:
                try:
                    chunk = ray.get(self._chunks[match_id], timeout=60)
                except ray.exceptions.RayError:
                    continue
                found += [episode for episode in chunk if episode.match.id == match_id]
        return found


class Evaluating:
    """Plays and scores for `spiral.evaluation`, on generators that may be playing for the learner as well."""

    def __init__(self, config: Config, machines: Machines, reactor: Reactor, dispatcher: Dispatcher, say: Any) -> None:
        self.generators = Generators(config, machines, reactor, dispatcher, on_episodes=self._on_episodes, say=say)
        self._reactor = reactor
        self._max_num_seqs = config.generators.max_num_seqs
        self._headers: dict[int, EpisodeHeader] = {}
        self._chunks: dict[int, Any] = {}
        reactor.on_tick.append(self.generators.tick)

    def _on_episodes(self, arrivals: list[Arrival], episodes: Any) -> None:
        for arrival in arrivals:
            match_id = arrival.header.match.id
            self._headers[match_id] = arrival.header
            if arrival.header.end_reason != "void":
                self._chunks[match_id] = episodes

    def play(self, matches: Sequence[Match]) -> Played:
        """Play matches on all generators. Raises StopRequested."""
        self._headers, self._chunks = {}, {}
        self.generators.dispatcher.submit(matches)
        self.generators.deal()
        try:
            self._reactor.wait(lambda: len(self._headers) == len(matches), interruptible=True)
        finally:
            self.generators.dispatcher.withdraw()
        return Played([self._headers[match.id] for match in matches], self._chunks)

    def action_logprobs(
        self, game_id: str, points: Sequence[DecisionPoint], label: str = POLICY
    ) -> list[tuple[float, ...]]:
        """A model's log-probability of each legal action at each decision point."""
        return self._at_each_point("action_logprobs", game_id, points, label)

    def action_counts(self, game_id: str, points: Sequence[DecisionPoint], num_samples: int) -> list[tuple[int, ...]]:
        """How often the policy answers each legal action, and last none of them, at each decision point."""
        return self._at_each_point("action_counts", game_id, points, num_samples)

    def _at_each_point(self, method: str, game_id: str, points: Sequence[DecisionPoint], *more: Any) -> list[Any]:
        def begin(host: Host, some: list[DecisionPoint]) -> Any:
            return host.aside(method, game_id, some, *more)

        return shared_out(self.generators, self._reactor, begin, points, action="score actions")

    def responses(self, questions: Sequence[str], on_progress: Callable[[int], None]) -> list[Response]:
        """The policy's answers at temperature 0; `on_progress` gets the number of those that are there."""

        def begin(host: Host, some: list[str]) -> Any:
            return host.aside("responses", some)

        at_once = max(1, self._max_num_seqs // RESPONSE_CALLS)
        return shared_out(
            self.generators,
            self._reactor,
            begin,
            questions,
            action="answer questions",
            at_once=at_once,
            num_calls=RESPONSE_CALLS,
            on_progress=on_progress,
        )


@contextmanager
def running_generators(config: Config, model_dir: Path, adapter_dir: Path | None = None) -> Iterator[Evaluating]:
    """Generators without a learner, ready to play with the model in `model_dir` (and a LoRA adapter on top)."""
    with tempfile.TemporaryDirectory(prefix="spiral-logs-") as logs, ray_session():
        machines = Machines(config, model_dir, Path(logs))
        reactor = Reactor(Stop(), config.checkpoint.grace_s)
        nothing_to_train = Dispatcher(_no_match, batch_size=0, max_staleness=0, num_steps=0)
        evaluating = Evaluating(config, machines, reactor, nothing_to_train, print)
        generators = evaluating.generators
        try:
            generators.start(())
            generators.wait_until("wait")
            if adapter_dir is not None:
                weights = WeightsRef(version=0, location=str(adapter_dir.absolute()), is_adapter=True)
                generators.update(0, lambda host: host.call("load", weights))
            else:
                generators.updated_together(0)
            generators.wait_until("play")
            yield evaluating
        finally:
            generators.stop()


def _no_match() -> Match:
    raise AssertionError("an evaluation has no matches to train on")
