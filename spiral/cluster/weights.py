"""Distributes published weights to generators: through files on the learner's machine, through Ray to others."""

from collections.abc import Callable, Sequence
from typing import Any

from spiral.cluster.hosts import Host
from spiral.cluster.learners import Learners
from spiral.types import WeightsRef


class PublishedWeights:
    """A policy version that the learner has published as files in its machine's shared memory.

    Generators on that machine load it from there. For the others it travels through Ray's object store, once per
    machine: the first generator that loads it there writes it into the shared memory of its machine.
    """

    def __init__(self, weights: WeightsRef, learners: Learners, running: Callable[[], Sequence[Host]]) -> None:
        self._weights = weights
        self._learner = learners.hosts[0]
        self._running = running  # the generators that have not died
        self._files: Any = None  # reference to their content, once a machine needs it
        self._copies: dict[str, tuple[Host, Any]] = {}  # node id -> the writer, and a reference to its WeightsRef

    def load(self, host: Host) -> Any:
        """Begin to load it into a generator. Returns the reference to the call."""
        node = host.seat.node.id
        if node == self._learner.seat.node.id:
            return host.call("load", self._weights)
        writer, copy = self._copies.get(node, (None, None))
        if writer is None or writer not in self._running():  # the copy goes with the generator that wrote it
            if self._files is None:
                self._files = self._learner.aside("read_published", self._weights)
            copy = host.call("receive_files", self._weights, self._files)
            self._copies[node] = (host, copy)
        return host.call("load", copy)
