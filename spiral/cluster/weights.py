"""Distributes published weights to generators: through files on the learner's machine, through Ray to others."""

from collections.abc import Callable, Sequence
from typing import Any

from spiral.cluster.hosts import Host
from spiral.cluster.learners import Learners
from spiral.types import WeightsRef


class PublishedWeights:
    """A policy version that the learner has published as files of its machine, and the past selves that go with it.

    Generators on that machine load them from there. For the others they travel through Ray's object store, once per
    machine: the first generator that loads them there writes them into the shared memory of its machine.
    """

    def __init__(
        self,
        weights: WeightsRef,
        learners: Learners,
        running: Callable[[], Sequence[Host]],
        past: Sequence["PublishedWeights"] = (),
    ) -> None:
        self._weights = weights
        self._past = past
        self._learner = learners.hosts[0]
        self._running = running  # the generators that have not died
        self._files: Any = None  # reference to their content, once a machine needs it
        self._copies: dict[str, tuple[Host, Any]] = {}  # node id -> the writer, and a reference to its WeightsRef

    def load(self, host: Host) -> Any:
        """Begin to load all into a generator. Returns the reference to the call."""
        return host.call("load", self._at(host), *(one._at(host) for one in self._past))

    def _at(self, host: Host) -> Any:
        """The WeightsRef of this version alone on the machine of a generator, or a reference to it."""
        node = host.seat.node.id
        if node == self._learner.seat.node.id:
            return self._weights
        writer, copy = self._copies.get(node, (None, None))
        if writer is None or writer not in self._running():  # the copy goes with the generator that wrote it
            if self._files is None:
                self._files = self._learner.aside("read_published", self._weights)
            copy = host.call("receive_files", self._weights, self._files)
            self._copies[node] = (host, copy)
        return copy
