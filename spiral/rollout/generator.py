"""The generator: one vLLM engine and one event loop that keeps many matches in flight. A Ray actor in `spiral.cluster`.

The event loop has a thread of its own. The driver's calls arrive in other threads, so that a generator whose loop is
blocked by a game still answers, and says which.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from spiral.config import Config
from spiral.game.solve import DecisionPoint
from spiral.headers import episode_header
from spiral.machine_load import LoadMeter
from spiral.rollout.concurrency import Concurrency
from spiral.rollout.endpoint import Endpoint
from spiral.rollout.environment import engine_environment
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.orphan import GENERATOR_PID
from spiral.rollout.play import play
from spiral.rollout.players import Seat, make_player
from spiral.rollout.turn_server import TurnAnswer, TurnRequest, TurnServer
from spiral.storage.weight_files import Files, verify
from spiral.storage.weight_store import WeightStore
from spiral.types import Deal, Episode, Match, Report, Response, WeightsRef

Exchange = tuple[Report, list[Episode], list[Episode]]
"""A report, and the episodes of the matches that it says are finished: for the learner, and for an evaluation."""


class Generator:
    """Plays the matches dealt to it with the newest weights it has loaded.

    `seed` is the seed of the engine's sampling. Methods may be called from any thread, at the same time.
    """

    def __init__(self, config: Config, model_dir: Path, seed: int) -> None:
        self._config = config
        self._model_dir = model_dir
        self._seed = seed
        self._store = WeightStore(config)
        self._loop = asyncio.new_event_loop()
        self._calls = GameCalls()
        self._waiting: deque[Deal] = deque()  # dealt, not begun
        self._playing: dict[int, Deal] = {}  # by ticket
        self._concurrency = Concurrency(config.generators.max_num_seqs)
        self._endpoints: dict[str, Endpoint] = {}
        self._load = LoadMeter()
        self._news = threading.Condition()  # guards what follows
        self._finished: list[tuple[int, Episode, bool]] = []
        self._failure: BaseException | None = None
        self._progress_s = time.monotonic()

    def start(self) -> None:
        """Load tokenizer and engine: tens of seconds."""
        os.environ[GENERATOR_PID] = str(os.getpid())
        os.environ.update(engine_environment(self._config.generators))
        from spiral.rollout.sampler import Sampler

        threading.Thread(target=self._loop.run_forever, name="matches", daemon=True).start()

        async def start() -> None:
            self._sampler = Sampler.start(self._model_dir, self._config, self._seed)
            for name, endpoint in self._config.endpoints.items():
                self._endpoints[name] = Endpoint(endpoint, self._config.rollout)

        self._run(start())
        self._engine = self._sampler.engine
        self._turns = TurnServer(self._loop, self._sampler.player)

    # --- matches

    def deal(self, deals: Sequence[Deal]) -> None:
        """Take matches to play. Does not wait."""
        self._loop.call_soon_threadsafe(self._take, deals)

    def exchange(self, deals: Sequence[Deal], wait_s: float, linger_s: tuple[float, float]) -> Exchange:
        """Take matches to play, and return those that have ended since the last call.

        Waits up to `wait_s` for the first to end, and then for more, unless all have ended: the second time of
        `linger_s` as long as dealt matches wait to begin, else the first. Raises what ended the engine.
        """
        if deals:
            self.deal(deals)
        with self._news:
            self._news.wait_for(lambda: self._finished or self._failure, timeout=wait_s)
            if self._finished:
                short, long = linger_s
                self._news.wait_for(lambda: self._is_idle() or self._failure, timeout=short)
                self._news.wait_for(lambda: not self._waiting or self._failure, timeout=long - short)
            if self._failure is not None:
                raise self._failure
            finished, self._finished = self._finished, []
        headers = tuple((ticket, episode_header(episode)) for ticket, episode, _ in finished)
        for_learner, for_evaluation = (
            [episode for _, episode, trains in finished if trains is wanted and episode.end_reason != "void"]
            for wanted in (True, False)
        )
        return self._report(headers), for_learner, for_evaluation

    def _report(self, finished: tuple[tuple[int, Any], ...]) -> Report:
        figures = self._engine.figures()
        room = self._concurrency.update(figures, len(self._playing), time.monotonic())
        playing = dict(self._playing)
        held_up = self._calls.blocked(self._config.rollout.move_timeout_s)
        blocked = None
        if held_up is not None:
            match, seconds = held_up
            ticket = next((t for t, deal in playing.items() if deal.match == match), None)
            if ticket is not None:
                blocked = (ticket, f"{match.game} (seed {match.seed}) has not returned from a call for {seconds:.0f} s")
        works = (self._engine, *self._endpoints.values())
        last_s = max(self._progress_s, *(work.progress_s() for work in works))
        stuck_s = time.monotonic() - last_s if playing else 0.0
        return Report(
            finished=finished,
            figures=figures,
            room=room,
            machine=self._load.measure(),
            stuck_s=stuck_s,
            blocked=blocked,
            endpoints={name: endpoint.use for name, endpoint in self._endpoints.items()},
        )

    def _is_idle(self) -> bool:
        return not self._playing and not self._waiting

    # --- in the thread of the event loop

    def _take(self, deals: Sequence[Deal]) -> None:
        self._waiting.extend(deals)
        self._progress_s = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        """Begin the matches that there is room for."""
        while self._waiting and len(self._playing) < self._concurrency.limit:
            deal = self._waiting.popleft()
            self._playing[deal.ticket] = deal
            task = self._loop.create_task(self._play(deal))
            task.add_done_callback(lambda ended, deal=deal: self._end(deal, ended))  # type: ignore[misc]

    def _end(self, deal: Deal, ended: "asyncio.Task[Episode]") -> None:
        del self._playing[deal.ticket]
        self._progress_s = time.monotonic()
        with self._news:
            if (error := ended.exception()) is not None:
                self._failure = error
            else:
                self._finished.append((deal.ticket, ended.result(), deal.trains))
            self._news.notify_all()
        self._begin()

    async def _play(self, deal: Deal) -> Episode:
        limits = self._config.rollout
        return await play(
            deal.match,
            (self._seat(deal.match, 0), self._seat(deal.match, 1)),
            illegal_retries=limits.illegal_retries,
            move_timeout_s=limits.move_timeout_s,
            calls=self._calls,
            branches=limits.branches if deal.trains else 0,
        )

    def _seat(self, match: Match, role: int) -> Seat:
        label = match.players[role]
        if label in self._endpoints:
            return self._endpoints[label].player()
        return make_player(label, match.game, f"{match.seed}/{role}", self._sampler.player)

    def action_logprobs(self, game_id: str, points: Sequence[DecisionPoint], label: str) -> list[tuple[float, ...]]:
        """See `Sampler.action_logprobs`."""
        return self._run(self._sampler.action_logprobs(game_id, points, label))  # type: ignore[no-any-return]

    def action_counts(self, game_id: str, points: Sequence[DecisionPoint], num_samples: int) -> list[tuple[int, ...]]:
        """See `Sampler.action_counts`."""
        return self._run(self._sampler.action_counts(game_id, points, num_samples))  # type: ignore[no-any-return]

    def responses(self, questions: Sequence[str]) -> list[Response]:
        """See `Sampler.responses`."""
        return self._run(self._sampler.responses(questions))  # type: ignore[no-any-return]

    # --- single turns: see `TurnServer`

    def submit_turns(self, requests: Sequence[TurnRequest], ended: Sequence[str]) -> None:
        self._turns.submit(requests, ended)

    def collect_turns(self, wait_s: float) -> list[TurnAnswer]:
        return self._turns.collect(wait_s)

    # --- new weights: see `Engine`

    def receive_files(self, weights: WeightsRef, files: Files) -> WeightsRef:
        """Write a policy version that is on another machine; returns where it is on this one."""
        return self._store.receive(weights, files)

    def load(self, weights: WeightsRef, *past: WeightsRef) -> None:
        """Sample with a policy version from now on, and with these past selves.

        Raises RunInterrupted if the files of one of them are damaged.
        """
        loaded = self._engine.past_versions
        for new in (weights, *(one for one in past if one.version not in loaded)):
            verify(new)
        self._run(self._engine.load(weights, past))
        self._store.keep_past({one.version for one in past})

    def sleep(self) -> None:
        """Free the GPU until weights are loaded again."""
        self._run(self._engine.sleep())

    def close(self) -> None:
        """Remove what this generator has written."""
        self._store.close()

    def connect(self, rendezvous: dict[str, Any]) -> None:
        self._run(self._engine.connect(rendezvous))

    def begin_receive(self) -> None:
        self._run(self._engine.begin_receive())

    def receive(self, update: Any) -> None:
        self._run(self._engine.receive(update))

    def finish_receive(self, version: int) -> None:
        self._run(self._engine.finish_receive(version))

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the event loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
