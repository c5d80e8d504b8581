"""The way of episodes from the generators to the ranks of the learner, by object reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from spiral.cluster.dispatcher import Arrival
from spiral.cluster.failures import explain
from spiral.cluster.hosts import Host
from spiral.cluster.inbox import Inbox
from spiral.cluster.reactor import Outcome, Reactor
from spiral.types import Match

PER_BATCH = 8
"""A batch reaches the learner in about so many calls: each costs the driver 2 ms, however many episodes it is about."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Episodes of one report: what is known of them, and the reference to a list of them."""

    arrivals: Sequence[Arrival]
    episodes: Any


class Delivery:
    """Delivers episodes and keeps `inbox` informed. `on_lost` gets the matches whose episodes were lost on the way."""

    def __init__(
        self,
        inbox: Inbox,
        reactor: Reactor,
        ranks: Callable[[], Sequence[Host]],
        on_lost: Callable[[Sequence[Match]], None],
    ) -> None:
        self._inbox = inbox
        self._reactor = reactor
        self._ranks = ranks
        self._on_lost = on_lost
        self._held: list[Parcel] = []

    def add(self, arrivals: Sequence[Arrival], episodes: Any) -> None:
        """Deliver these with others: once there are enough for a call, or for a batch."""
        self._inbox.expect(arrivals)
        self._held.append(Parcel(arrivals, episodes))
        num_held = sum(len(parcel.arrivals) for parcel in self._held)
        if num_held * PER_BATCH >= self._inbox.batch_size or self._inbox.will_be_full():
            held, self._held = self._held, []
            self._send(held)

    def _send(self, parcels: Sequence[Parcel]) -> None:
        ranks = self._ranks()
        outcomes: list[Outcome] = []

        def received(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if len(outcomes) < len(ranks):
                return
            failed = [outcome.error for outcome in outcomes if outcome.error is not None]
            if failed:
                self._not_received(parcels, failed[0])
            else:
                self._inbox.received(arrival for parcel in parcels for arrival in parcel.arrivals)

        for host in ranks:
            self._reactor.watch(host.aside("receive", *(parcel.episodes for parcel in parcels)), received)

    def _not_received(self, parcels: Sequence[Parcel], error: BaseException) -> None:
        """A lost parcel stops those sent with it, which are sent again alone. A learner that died ends the run."""
        if not isinstance(getattr(error, "cause", None) or error, ray.exceptions.ObjectLostError):
            self._reactor.fail(explain(self._ranks()[0], error, "receive episodes"))
        elif len(parcels) > 1:
            for parcel in parcels:
                self._send([parcel])
        else:
            self._on_lost(self._inbox.lost(parcels[0].arrivals))
