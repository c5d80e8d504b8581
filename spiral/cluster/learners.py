"""The client of the learner's ranks, which work together and are called together."""

from collections.abc import Sequence
from typing import Any

from spiral.cluster.hosts import Host, end_hosts
from spiral.cluster.machines import Machines
from spiral.cluster.placement import Seat
from spiral.cluster.reactor import Reactor
from spiral.config import Config
from spiral.learn.rank import Rank

KIND = "spiral.learn.learner:Learner"


class Learners:
    """The ranks of the learner. `hosts[0]` is rank 0, on whose machine checkpoints and episodes are written."""

    def __init__(self, config: Config, machines: Machines, reactor: Reactor, seats: Sequence[Seat]) -> None:
        self._config = config
        self._machines = machines
        self._reactor = reactor
        self._timeout_s = config.learner.timeout_s
        self.hosts: list[Host] = [machines.start(seat) for seat in seats]

    def construct(self) -> list[tuple[Host, Any]]:
        """Begin to load the model on every rank. They find each other over TCP, at a port that rank 0 opens."""
        first, count = self.hosts[0], len(self.hosts)
        address, port = "", 0
        if count > 1:
            on_one_machine = len({host.seat.node.id for host in self.hosts}) == 1
            address = "127.0.0.1" if on_one_machine else first.seat.node.address
            opened = first.handle.open_rendezvous.remote(address)
            port = self._reactor.get(first, opened, self._timeout_s, "open a port", interruptible=True)
        ranks = [Rank(index, count, address, port) for index in range(count)]
        return [
            (host, host.construct(KIND, self._config, self._machines.model_for(host), rank))
            for host, rank in zip(self.hosts, ranks, strict=True)
        ]

    def begin(self, method: str, *args: object) -> list[tuple[Host, Any]]:
        """Call a method of every rank, without waiting."""
        return [(host, host.call(method, *args)) for host in self.hosts]

    def ask(self, method: str, *args: object, interruptible: bool = False) -> Any:
        """Call a method of every rank and wait; returns the result of rank 0. Matches are played meanwhile."""
        calls = self.begin(method, *args)
        return self._reactor.get_all(calls, self._timeout_s, method, interruptible=interruptible)[0]

    def stop(self) -> None:
        """End the actors."""
        end_hosts(self.hosts)
