"""The client of the generators: starts them, deals matches to them, and replaces those that die or hang.

Everything here happens in handlers of the reactor, so that play goes on whatever the driver waits for.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from spiral.cluster.dispatcher import Arrival, Dispatcher
from spiral.cluster.failures import explain, late
from spiral.cluster.hosts import Host, end_hosts
from spiral.cluster.machines import Machines
from spiral.cluster.placement import Seat, place_beside, place_generators
from spiral.cluster.reactor import Outcome, Reactor
from spiral.cluster.reporting import POLL_S, linger_s
from spiral.config import Config, RunFailed, RunInterrupted
from spiral.errors import summary
from spiral.machine_load import MachineLoad
from spiral.rollout.endpoint import EndpointUse
from spiral.types import Deal, EngineFigures, EpisodeHeader, Report

KIND = "spiral.rollout.generator:Generator"
HOUR_S = 3600.0
PLACE_EVERY_S = 2.0

OnEpisodes = Callable[[list[Arrival], Any], None]
"""Gets arrivals and the reference to their episodes. Void ones are among the arrivals, but have no episode."""
Begin = Callable[[Host], Any]
"""Begins a call of a generator, such as to load the newest weights. Returns the reference to the call."""


@dataclass(slots=True)
class Member:
    """A generator: its host and what is known of it."""

    host: Host
    since_s: float  # start of what it is doing now: starting, loading, or the exchange under way
    state: Literal["start", "wait", "load", "play"] = "start"  # wait: for the first weights
    is_exchanging: bool = False
    figures: EngineFigures = field(default_factory=EngineFigures)
    machine: MachineLoad | None = None
    endpoints: Mapping[str, EndpointUse] = field(default_factory=dict)


class Generators:
    """The generators of a run or an evaluation."""

    def __init__(
        self,
        config: Config,
        machines: Machines,
        reactor: Reactor,
        dispatcher: Dispatcher,
        *,
        on_episodes: OnEpisodes,
        say: Callable[[str], None],
    ) -> None:
        self.dispatcher = dispatcher
        self.members: dict[str, Member] = {}
        self.num_restarts = 0
        self._config = config
        self._machines = machines
        self._reactor = reactor
        self._load: Begin | None = None
        self._is_asleep = False  # all engines, because the learner has the GPU
        self._on_episodes = on_episodes
        self._say = say
        self._is_starting = True  # until the first ones play: a failure then ends the run
        self._deaths_s: deque[float] = deque()
        self._placed_s = 0.0
        self._without_s: float | None = None  # since when there has been no generator
        self._num_started = 0
        self._version = dispatcher.version
        self._first_version = dispatcher.version

    # --- starting

    def require_room(self, learner: Sequence[Seat]) -> list[Seat]:
        """Seats for as many generators as fit beside the learner. Raises UserError if these are too few."""
        return place_beside(self._config, self._machines.nodes(), learner)

    def start(self, learner: Sequence[Seat]) -> None:
        """Start as many generators as fit beside the learner. Raises UserError if these are too few."""
        self._learner_seats = list(learner)
        for seat in self.require_room(learner):
            self._start(seat)

    def _start(self, seat: Seat) -> None:
        host = self._machines.start(seat)
        self._num_started += 1
        member = self.members[seat.name] = Member(host, time.monotonic())
        # Engines with equal seeds draw equal samples: neither two of a run nor one before and after a restart may.
        seed = random.Random(f"{self._config.seed}/{self._first_version}/{self._num_started}").getrandbits(31)
        constructed = host.construct(KIND, self._config, self._machines.model_for(host), seed)
        self.watch(member, constructed, "start", lambda _: self._started(member, host.call("start")))

    def _started(self, member: Member, start: Any) -> None:
        self.watch(member, start, "start", lambda _: self._load_into(member))

    def _load_into(self, member: Member) -> None:
        """Load the newest weights, until there are no newer ones; then the generator plays."""
        member.since_s = time.monotonic()
        if self._load is None:
            member.state = "wait"
            return
        member.state, load = "load", self._load

        def loaded(_: Any) -> None:
            if load is self._load:
                self._join(member)
            else:
                self._load_into(member)

        self.watch(member, load(member.host), f"load policy version {self._version}", loaded)

    def _join(self, member: Member) -> None:
        member.state = "play"
        self.dispatcher.join(member.host.name, self._config.generators.max_num_seqs)
        self.deal()
        self._exchange(member)

    def wait_until(self, state: Literal["wait", "play"]) -> None:
        """Wait until every generator is ready for weights, or plays. Raises what stopped one."""
        limit_s = self._config.generators.start_timeout_s

        def others() -> list[Member]:
            return [member for member in self.members.values() if member.state not in (state, "play")]

        def slowest() -> Exception:
            return late(others()[0].host, limit_s, "start")

        self._reactor.wait(lambda: not others(), limit_s=limit_s, late=slowest, interruptible=True)
        self._is_starting = state != "play"

    # --- playing

    def deal(self) -> None:
        """Deal what may be dealt now."""
        for name, deals in self.dispatcher.deals().items():
            member = self.members[name]
            if member.is_exchanging:
                self.watch(member, member.host.aside("deal", deals), "take matches", lambda _: None)
            else:
                self._exchange(member, deals)

    def _exchange(self, member: Member, deals: Sequence[Deal] = ()) -> None:
        """Begin an exchange, if none is under way: a generator has one whenever it plays."""
        if member.is_exchanging:
            return
        member.is_exchanging, member.since_s = True, time.monotonic()
        references = member.host.aside("exchange", list(deals), POLL_S, linger_s(len(self.members)), num_returns=3)
        self.watch(member, references[0], "play", lambda report: self._reported(member, report, references[1:]))

    def _reported(self, member: Member, report: Report, episodes: Sequence[Any]) -> None:
        member.is_exchanging = False
        member.figures, member.machine, member.endpoints = report.figures, report.machine, report.endpoints
        name = member.host.name
        arrivals = [self.dispatcher.finished(name, ticket, header) for ticket, header in report.finished]
        for trains, reference in zip((True, False), episodes, strict=True):
            of_kind = [arrival for arrival in arrivals if arrival is not None and arrival.trains is trains]
            if of_kind:
                self._on_episodes(of_kind, reference)
        if report.blocked is not None:
            ticket, reason = report.blocked
            self._lose(member, reason, culprit=ticket)
        elif report.stuck_s > self._config.generators.hang_timeout_s:
            self._lose(member, f"has sampled no token for {report.stuck_s:.0f} s")
        else:
            self.dispatcher.set_room(name, report.room)
            self.deal()
            self._exchange(member)

    # --- faults

    def watch(self, member: Member, reference: Any, action: str, then: Callable[[Any], None]) -> None:
        """Call `then` with what a call returns. If the call fails, the generator is replaced."""

        def handle(outcome: Outcome) -> None:
            if self.members.get(member.host.name) is not member:
                return  # it has been replaced
            if outcome.error is None:
                then(outcome.value)
                return
            error = explain(member.host, outcome.error, action)
            if self._is_starting or not isinstance(error, RunFailed):
                self._reactor.fail(error)
            else:
                self._lose(member, summary(error))

        self._reactor.watch(reference, handle)

    def _lose(self, member: Member, reason: str, culprit: int | None = None) -> None:
        """Give a generator up: its matches are dealt again. The run fails when too many have died."""
        name = member.host.name
        del self.members[name]
        member.host.kill()
        lost = self.dispatcher.leave(name, culprit)
        now = time.monotonic()
        self._deaths_s.append(now)
        while now - self._deaths_s[0] > HOUR_S:
            self._deaths_s.popleft()
        self.num_restarts += 1
        again = sum(not given_up for _, given_up in lost)
        self._say(f"warning: {name} is replaced: {reason}; {again} matches are played again")
        limit = self._config.generators.max_restarts
        if len(self._deaths_s) > limit:
            error = f"more than {limit} generators died within an hour (generators.max_restarts); {reason}"
            self._reactor.fail(RunFailed(error))
        for deal, given_up in lost:
            if given_up:
                self._give_up(deal, reason)
        self.deal()

    def _give_up(self, deal: Deal, reason: str) -> None:
        """A match that ends generators is void."""
        match = deal.match
        error = f"{match.game} (seed {match.seed}) ended the generator that played it: {reason}"
        header = EpisodeHeader(
            match=match, returns=(0.0, 0.0), end_reason="void", turns=(), forfeit_by=None, duration_s=0.0, error=error
        )
        self._on_episodes([Arrival(header, self.dispatcher.version, deal.trains)], None)

    def tick(self) -> None:
        """Replace generators that do not answer, and start missing ones where there is room."""
        cfg, now = self._config.generators, time.monotonic()
        limits = {"start": cfg.start_timeout_s, "load": self._config.weights.timeout_s}
        report_s = cfg.hang_timeout_s + POLL_S + linger_s(len(self.members))[1]
        for member in list(self.members.values()):
            limit_s = limits.get(member.state, report_s)
            if now - member.since_s > limit_s and not self._is_starting:
                self._lose(member, summary(late(member.host, limit_s, "answer")))
        if not self._is_starting and not self._is_asleep and now - self._placed_s > PLACE_EVERY_S:
            self._placed_s = now
            self._start_missing(now)

    def _start_missing(self, now: float) -> None:
        cfg = self._config.generators
        if len(self.members) < cfg.count and self._config.weights.transport == "files":
            nodes = self._machines.nodes()  # what actors have reserved is not in it
            taken = [*self._learner_seats, *(member.host.seat for member in self.members.values())]
            for seat in place_generators(self._config, nodes, taken):
                self._say(f"starting {seat.name} on {seat.node.hostname}")
                self._start(seat)
        if any(member.state == "play" for member in self.members.values()):
            self._without_s = None
            return
        self._without_s = self._without_s or now
        if now - self._without_s > cfg.start_timeout_s:
            error = f"no generator has played for {now - self._without_s:.0f} s, and none could be started"
            self._reactor.fail(RunInterrupted(error))

    # --- all of them

    def hosts(self) -> list[Host]:
        """Their hosts."""
        return [member.host for member in self.members.values()]

    def playing(self) -> list[Member]:
        """The generators that are ready."""
        return [member for member in self.members.values() if member.state == "play"]

    def update(self, version: int, load: Begin, loaded: Callable[[], None] = lambda: None) -> None:
        """Make all generators sample with policy version `version`, which `load` loads. One that cannot is replaced.

        `loaded` is called then, before a match is dealt. A generator that is started later begins with the newest
        weights, too.
        """
        self._version, self._load, self._is_asleep = version, load, False
        playing = self.playing()
        for member in list(self.members.values()):
            if member.state == "wait":
                self._load_into(member)
        self._call(playing, load, f"load policy version {version}")
        loaded()
        self.dispatcher.version = version
        self.deal()

    def sleep(self) -> None:
        """Make all engines free their GPU until weights are loaded again. One that cannot is replaced after that."""
        self._is_asleep = True
        for member in list(self.members.values()):
            if member.state in ("start", "load"):
                self._lose(member, "it was not ready when the learner's turn began")
        self._call(list(self.members.values()), lambda host: host.call("sleep"), "free its GPU")

    def wake(self) -> None:
        """Load the newest weights again, which wakes the engines."""
        assert self._load is not None
        self.update(self._version, self._load)

    def _call(self, members: Sequence[Member], begin: Begin, action: str) -> None:
        """Begin a call of each of these generators, and wait. One that fails or is late is replaced."""
        busy: dict[str, Member] = {}
        for member in members:
            busy[member.host.name] = member
            self.watch(member, begin(member.host), action, partial(_forget, busy, member.host.name))

        def late_ones() -> list[Member]:
            return [member for name, member in busy.items() if self.members.get(name) is member]

        limit_s, start_s = self._config.weights.timeout_s, time.monotonic()
        self._reactor.wait(
            lambda: not late_ones() or time.monotonic() - start_s > limit_s, interruptible=self._is_starting
        )
        for member in late_ones():
            self._lose(member, summary(late(member.host, limit_s, action)))

    def updated_together(self, version: int) -> None:
        """The learner has sent policy version `version` to all generators at once."""
        self._version = self.dispatcher.version = version
        for member in self.members.values():
            if member.state == "wait":
                self._join(member)
        self.deal()

    def stop(self) -> None:
        """End the generators and their engines."""
        end_hosts(self.hosts())
        self.members.clear()


def _forget(busy: dict[str, Member], name: str, _: Any) -> None:
    del busy[name]
