"""The dispatcher: which generator plays which match, and how many matches may have been started.

Pure bookkeeping, without Ray. Matches are dealt one by one to the generator with the fewest, and stay there. Two
kinds are dealt: those of an evaluation first, and those that the learner trains on, as many as staleness permits.

**Staleness.** Let B episodes be trained on per step, and let step u + 1 train with policy version u. With max_staleness
K, (K + u + 1) * B matches may have been started by version u. A match that was started at version s must be trained on
by step s + K + 1: before that step takes its batch, it waits for those still running (`due`), and the batch takes the
oldest first. At most (u + 1) * B matches were started at versions up to u - K, and u * B are trained on already, so
those that are due always fit into one batch: no episode is ever too old, none is thrown away for its age, and a long
match delays the learner only when its K steps are over.

**Freshness.** Starting all that K permits would make every episode K versions old wherever play is faster than
learning. So at version u only as many matches are started as steps u + 1 and u + 2 still need, as if K were 1: one
batch is played while another is trained on. Running matches that were started at earlier versions are not counted,
because they may be long: a larger K keeps the other seats filled until they end.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from spiral.types import Deal, EpisodeHeader, Match

DEATHS_BEFORE_QUARANTINE = 2
"""A match that was in flight at so many deaths is re-run alone; if that generator dies too, the match is void."""


@dataclass(slots=True)
class _Table:
    """A generator's matches: those dealt to it and not ended, by ticket."""

    room: int
    dealt: dict[int, Deal] = field(default_factory=dict)
    quarantined: bool = False  # plays one suspect match and nothing else

    @property
    def is_open(self) -> bool:
        return len(self.dealt) < self.room and not self.quarantined


@dataclass(frozen=True, slots=True)
class Arrival:
    """A match that ended, the version it was started at, and whether the learner trains on it."""

    header: EpisodeHeader
    version: int
    trains: bool


class Dispatcher:
    """Deals matches to generators. `next_match` issues the next one to train on.

    While `holds_training`, only matches of an evaluation are dealt.

    `version` is the policy version that generators have; `num_trained` counts the episodes that were trained on, and
    those taken for the step under way. A resumed run starts with those of its checkpoint.
    """

    def __init__(
        self,
        next_match: Callable[[], Match],
        *,
        batch_size: int,
        max_staleness: int,
        num_steps: int,
        version: int = 0,
        num_trained: int = 0,
    ) -> None:
        self.version = version
        self._next_match = next_match
        self._batch_size = batch_size
        self._max_staleness = max_staleness
        self._most = batch_size * num_steps
        self._num_done = num_trained  # trained on, or waiting to be
        self._tables: dict[str, _Table] = {}
        self._by_load: list[tuple[int, str]] = []  # a heap; entries that are out of date are skipped
        self._again: deque[Match] = deque()  # training matches of generators that died
        self._evaluation: deque[Match] = deque()
        self._running: dict[int, int] = {}  # training tickets: version at the start
        self._num_running: Counter[int] = Counter()  # of them, by that version
        self.holds_training = False
        self._tickets = 0
        self._deaths: dict[tuple[bool, int], int] = {}

    # --- generators

    def join(self, generator: str, room: int) -> None:
        """A generator is ready for matches."""
        self._tables[generator] = _Table(room)
        self._push(generator)

    def leave(self, generator: str, culprit: int | None = None) -> list[tuple[Deal, bool]]:
        """A generator died. Its matches are dealt again, except those that ended too many generators.

        `culprit` is the ticket of a match that is known to be the cause. Returns each match that it held, and whether
        it is given up.
        """
        table = self._tables.pop(generator, None)
        if table is None:
            return []
        alone = len(table.dealt) == 1
        lost = []
        for ticket, deal in table.dealt.items():
            self._stop(ticket)
            key = (deal.trains, deal.match.id)
            if culprit is None:
                self._deaths[key] = self._deaths.get(key, 0) + 1
            give_up = ticket == culprit or (alone and self._deaths.get(key, 0) > DEATHS_BEFORE_QUARANTINE)
            if not give_up:
                (self._again if deal.trains else self._evaluation).append(deal.match)
            lost.append((deal, give_up))
        return lost

    def set_room(self, generator: str, room: int) -> None:
        """Change the number of matches that a generator wants to hold."""
        table = self._tables.get(generator)
        if table is not None and table.room != room:
            table.room = max(1, room)
            self._push(generator)

    def generators(self) -> Mapping[str, int]:
        """The matches that each generator holds."""
        return {name: len(table.dealt) for name, table in self._tables.items()}

    # --- matches

    def submit(self, matches: Iterable[Match]) -> None:
        """Deal these matches of an evaluation before any other."""
        self._evaluation.extend(matches)

    def withdraw(self) -> None:
        """Forget the matches of an evaluation that have not been dealt."""
        self._evaluation.clear()

    def deals(self) -> dict[str, list[Deal]]:
        """The matches to deal now, by generator."""
        dealt: dict[str, list[Deal]] = {}
        while (chosen := self._choose()) is not None:
            generator, trains, match = chosen
            self._tickets += 1
            deal = Deal(ticket=self._tickets, match=match, trains=trains)
            table = self._tables[generator]
            table.dealt[deal.ticket] = deal
            table.quarantined = self._is_suspect(trains, match)
            if trains:
                self._running[deal.ticket] = self.version
                self._num_running[self.version] += 1
            self._push(generator)
            dealt.setdefault(generator, []).append(deal)
        return dealt

    def finished(self, generator: str, ticket: int, header: EpisodeHeader) -> Arrival | None:
        """A match ended; None for one that was dealt to another generator in the meantime."""
        table = self._tables.get(generator)
        deal = table.dealt.pop(ticket, None) if table else None
        if table is None or deal is None:
            return None
        table.quarantined = False
        self._deaths.pop((deal.trains, deal.match.id), None)
        self._push(generator)
        version = self._stop(ticket)
        if deal.trains and header.end_reason != "void":
            self._num_done += 1
        return Arrival(header, version, deal.trains)

    def lost(self, match: Match) -> None:
        """The episode of a training match that had ended was lost with its machine: deal the match again."""
        self._num_done -= 1
        self._again.append(match)

    def due(self) -> int:
        """Running matches that the next batch must wait for."""
        oldest = self.version - self._max_staleness
        return sum(num for version, num in self._num_running.items() if version <= oldest)

    @property
    def num_running(self) -> int:
        """Training matches that are dealt and have not ended."""
        return len(self._running)

    # --- details

    def _choose(self) -> tuple[str, bool, Match] | None:
        """(generator, whether it trains, match) to deal next; None if there is no match or no room."""
        generator = self._least_loaded()
        if generator is None:
            return None
        table = self._tables[generator]
        for trains, again in ((False, self._evaluation), (True, self._again)):
            if trains and self.holds_training:
                return None
            if again and self._is_suspect(trains, again[0]) and table.dealt:
                return None  # wait until a generator is empty: the suspect is re-run alone
            if again:
                return generator, trains, again.popleft()
        return (generator, True, self._next_match()) if self._may_start() else None

    def _may_start(self) -> bool:
        """Whether another match to train on may be started now."""
        in_all = self._num_done + len(self._running)
        started_now = self._num_running[self.version]
        return (
            in_all < min((self._max_staleness + self.version + 1) * self._batch_size, self._most)
            and self._num_done + started_now < (self.version + 2) * self._batch_size
        )

    def _stop(self, ticket: int) -> int:
        """Remove a match from the running ones. Returns the version at its start; for an evaluation the current one."""
        version = self._running.pop(ticket, None)
        if version is None:
            return self.version
        self._num_running[version] -= 1
        if not self._num_running[version]:
            del self._num_running[version]
        return version

    def _is_suspect(self, trains: bool, match: Match) -> bool:
        return self._deaths.get((trains, match.id), 0) >= DEATHS_BEFORE_QUARANTINE

    def _push(self, generator: str) -> None:
        heapq.heappush(self._by_load, (len(self._tables[generator].dealt), generator))

    def _least_loaded(self) -> str | None:
        """The generator with the fewest matches among those with room."""
        while self._by_load:
            load, generator = self._by_load[0]
            table = self._tables.get(generator)
            if table is not None and len(table.dealt) == load and table.is_open:
                return generator
            heapq.heappop(self._by_load)  # out of date or closed: a newer entry is there, or follows when it opens
        return None
