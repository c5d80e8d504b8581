"""A run in simulated time.

The schedule, the dispatcher, the inbox and the limit on matches in flight are those of a run; engines and learner are
clocks.

Left out: evaluation, checkpoints, faults, the first load of the weights, and KV caches that are full.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from spiral.cluster.dispatcher import Dispatcher
from spiral.cluster.inbox import Inbox
from spiral.cluster.reporting import linger_s
from spiral.config import Config
from spiral.league.schedule import Schedule
from spiral.planning.engine import SimulatedEngine
from spiral.planning.speeds import Speeds
from spiral.planning.workload import Workload
from spiral.rollout.concurrency import Concurrency
from spiral.types import Deal, EpisodeHeader, Match


@dataclass(slots=True)
class Step:
    """One simulated step, in seconds.

    `staleness` is the mean age of the weights that sampled its turns, in versions; `generator_busy` and `learner_busy`
    are shares of its time, and `sequences` is the mean number that all engines were sampling. `durations` says for each
    match that the step trained on how long it was played.
    """

    seconds: float
    staleness: float
    learner_busy: float
    generator_busy: float
    sequences: float
    durations: list[tuple[Match, float]]


@dataclass(slots=True)
class _Played:
    """A match on its way: the policy version of each turn so far, and when it began and ended."""

    deal: Deal
    began_s: float
    versions: list[int] = field(default_factory=list)
    ended_s: float = 0.0


class Simulation:
    """Steps of a run, one after another."""

    def __init__(self, config: Config, workload: Workload, speeds: Speeds) -> None:
        self.now = 0.0
        self.dispatcher = Dispatcher(
            Schedule(config.seed, config.games, config.rollout.deals, config.league.opponents).next_match,
            batch_size=config.rollout.episodes_per_step,
            max_staleness=config.rollout.max_staleness,
            num_steps=config.steps,
        )
        self.workload = workload
        self.speeds = speeds
        self.played: dict[int, _Played] = {}  # by match id
        self._config = config
        self._inbox = Inbox(config.rollout.episodes_per_step)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._generators = {
            f"generator_{i}": _Generator(self, f"generator_{i}", config) for i in range(config.generators.count)
        }
        for name, generator in self._generators.items():
            self.dispatcher.join(name, generator.room())

    def steps(self) -> list[Step]:
        """All steps of the run."""
        steps = []
        began_s, busy_s, seat_s = 0.0, 0.0, 0.0
        for _ in range(self._config.steps):
            self.deal()
            self._run_until(self._has_batch)
            batch = self._inbox.take()
            played = [self.played.pop(header.match.id) for header in batch]
            turns = [turn for one in played for turn in self.workload.of(one.deal.match)]
            tokens = sum(turn.prompt + turn.completion for turn in turns) / self._config.learner.ranks
            learn_s = self.speeds.learn_s + self.speeds.token_s * tokens
            ages = [self.dispatcher.version - version for one in played for version in one.versions]
            self._pass(learn_s)
            for generator in self._generators.values():
                generator.engine.load(self.now)
            self._pass(self.speeds.sync_s)
            self.dispatcher.version += 1
            self.deal()
            self._pass(self.speeds.rest_s)
            busy = sum(generator.engine.busy_s for generator in self._generators.values())
            seconds = self.now - began_s
            seats = sum(generator.engine.seat_s for generator in self._generators.values())
            share = (busy - busy_s) / len(self._generators) / seconds
            staleness = sum(ages) / len(ages)
            durations = [(one.deal.match, one.ended_s - one.began_s) for one in played]
            steps.append(Step(seconds, staleness, learn_s / seconds, share, (seats - seat_s) / seconds, durations))
            began_s, busy_s, seat_s = self.now, busy, seats
        return steps

    def at(self, time_s: float, do: Callable[[], None]) -> None:
        """Call `do` at a simulated time."""
        heapq.heappush(self._events, (time_s, next(self._number), do))

    def deal(self) -> None:
        """Deal what may be dealt now."""
        for name, deals in self.dispatcher.deals().items():
            self._generators[name].take(deals)

    def report(self, name: str, ended: list[_Played]) -> None:
        """A generator reports matches that have ended."""
        for one in ended:
            self.played[one.deal.match.id] = one
            header = EpisodeHeader(
                match=one.deal.match,
                returns=(0.0, 0.0),
                end_reason="finished",
                turns=(),
                forfeit_by=None,
                duration_s=0.0,
                error=None,
            )
            arrival = self.dispatcher.finished(name, one.deal.ticket, header)
            assert arrival is not None
            self._inbox.expect([arrival])
            self._inbox.received([arrival])
        self.dispatcher.set_room(name, self._generators[name].room())
        self.deal()

    def _has_batch(self) -> bool:
        return self._inbox.is_full() and not self.dispatcher.due()

    def _pass(self, seconds: float) -> None:
        """Let time pass on the driver, while matches are played."""
        until = self.now + seconds
        self.at(until, lambda: None)
        self._run_until(lambda: self.now >= until)

    def _run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            engine = min((one.engine for one in self._generators.values()), key=SimulatedEngine.next_end)
            if self._events and self._events[0][0] <= engine.next_end():
                self.now, _, do = heapq.heappop(self._events)
                do()
            else:
                self.now = engine.next_end()
                assert self.now < float("inf"), "nothing is under way"
                engine.finish(self.now)


class _Generator:
    """Plays the matches dealt to it, as `spiral.rollout.generator` does."""

    def __init__(self, run: Simulation, name: str, config: Config) -> None:
        seats = config.generators.max_num_seqs
        self.engine = SimulatedEngine(run.speeds, seats)
        self._run = run
        self._name = name
        self._concurrency = Concurrency(seats)
        self._waiting: deque[Deal] = deque()
        self._num_playing = 0
        self._ended: list[_Played] = []
        self._linger_s = linger_s(config.generators.count)

    def room(self) -> int:
        return self._concurrency.update(self.engine.figures(), self._num_playing, self._run.now)

    def take(self, deals: list[Deal]) -> None:
        self._waiting.extend(deals)
        self._begin()

    def _begin(self) -> None:
        while self._waiting and self._num_playing < self._concurrency.limit:
            self._num_playing += 1
            self._play(_Played(self._waiting.popleft(), self._run.now), 0)

    def _play(self, one: _Played, number: int) -> None:
        """Play the turns of a match from `number` on."""
        turns = self._run.workload.of(one.deal.match)
        if number == len(turns):
            self._end(one)
            return
        one.versions.append(self._run.dispatcher.version)

        def done(now: float) -> None:
            self._run.at(now + self._run.speeds.turn_s, lambda: self._play(one, number + 1))

        self.engine.submit(turns[number], done, self._run.now)

    def _end(self, one: _Played) -> None:
        self._num_playing -= 1
        one.ended_s = self._run.now
        self._ended.append(one)
        self._begin()
        if self._num_playing == 0:
            self._report()
        elif len(self._ended) == 1:
            short, long = self._linger_s
            self._run.at(self._run.now + (long if self._waiting else short), self._report)

    def _report(self) -> None:
        if self._ended:
            ended, self._ended = self._ended, []
            self._run.report(self._name, ended)
