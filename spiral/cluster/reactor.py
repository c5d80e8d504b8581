"""The driver's event loop: results of actors' calls are handled one at a time, whatever the driver is waiting for.

So matches are dealt, and dead generators replaced, while the learner works or an evaluation is played.
"""

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from spiral.cluster.failures import explain, late
from spiral.cluster.hosts import Host
from spiral.stop import Stop, StopRequested

TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call returned, or the exception that it ended with."""

    value: Any = None
    error: BaseException | None = None


Handler = Callable[[Outcome], None]


class Reactor:
    """Delivers the outcome of each call to its handler. Costs the same per call, however many are under way.

    `on_tick` is called about twice a second while something is waited for. Once `stop` is requested, interruptible
    waits raise StopRequested at once, and others `grace_s` seconds later. A failure that ends the run, but not what
    the learner is doing, is passed to `fail`: the next interruptible wait raises it.
    """

    def __init__(self, stop: Stop, grace_s: float) -> None:
        self.on_tick: list[Callable[[], None]] = []
        self._stop = stop
        self._grace_s = grace_s
        self._ended: queue.SimpleQueue[tuple[Handler, Outcome]] = queue.SimpleQueue()
        self._unhandled: deque[tuple[Handler, Outcome]] = deque()
        self._ticked_s = 0.0
        self._failure: Exception | None = None

    def fail(self, error: Exception) -> None:
        """End the run with `error`, once nothing uninterruptible is waited for. The first failure counts."""
        self._failure = self._failure or error

    def watch(self, reference: Any, handler: Handler) -> None:
        """Call `handler` with the outcome of the call behind `reference`, inside a later wait."""
        future: Future[Any] = reference.future()
        future.add_done_callback(lambda ended: self._ended.put((handler, _outcome(ended))))

    def wait(
        self,
        done: Callable[[], bool],
        *,
        limit_s: float = float("inf"),
        late: Callable[[], Exception] | None = None,
        interruptible: bool = False,
    ) -> None:
        """Handle what comes until `done()`. After `limit_s` seconds raise what `late` returns."""
        deadline = time.monotonic() + limit_s
        while not done():
            now = time.monotonic()
            if now > deadline and late is not None:
                raise late()
            if self._failure is not None and interruptible:
                failure, self._failure = self._failure, None
                raise failure
            if self._stop.requested and (interruptible or self._stop.age_s > self._grace_s):
                raise StopRequested
            if now - self._ticked_s > TICK_S:
                self._ticked_s = now
                for tick in self.on_tick:
                    tick()
                continue
            self._pump(min(TICK_S, max(0.0, deadline - now)))

    def get(self, host: Host, reference: Any, limit_s: float, action: str, *, interruptible: bool = False) -> Any:
        """The result of one call. See `get_all`."""
        return self.get_all([(host, reference)], limit_s, action, interruptible=interruptible)[0]

    def get_all(
        self, calls: Sequence[tuple[Host, Any]], limit_s: float, action: str, *, interruptible: bool = False
    ) -> list[Any]:
        """The results, in order. The first failure is raised at once: the other actors may be waiting for that one.

        Raises what `explain` makes of a failure, or RunInterrupted for an actor that is late.
        """
        outcomes: dict[int, Outcome] = {}
        for number, (host, reference) in enumerate(calls):

            def handle(outcome: Outcome, number: int = number, host: Host = host) -> None:
                outcomes[number] = outcome
                if outcome.error is not None:
                    raise explain(host, outcome.error, action) from None

            self.watch(reference, handle)

        def slowest() -> Exception:
            return late(next(host for i, (host, _) in enumerate(calls) if i not in outcomes), limit_s, action)

        self.wait(lambda: len(outcomes) == len(calls), limit_s=limit_s, late=slowest, interruptible=interruptible)
        return [outcomes[number].value for number in range(len(calls))]

    def _pump(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for a call to end; handle those that have ended by then."""
        if not self._unhandled:
            try:
                self._unhandled.append(self._ended.get(timeout=timeout_s))
            except queue.Empty:
                return
        self._unhandled.extend(self._ended.get() for _ in range(self._ended.qsize()))
        while self._unhandled:  # what a handler that raises leaves is handled in the next wait
            handler, outcome = self._unhandled.popleft()
            handler(outcome)


def _outcome(future: "Future[Any]") -> Outcome:
    error = future.exception()
    return Outcome(error=error) if error is not None else Outcome(future.result())
