"""A simulated engine: continuous batching, with a clock instead of a model."""

import heapq
from collections import deque
from collections.abc import Callable

from spiral.planning.speeds import Speeds
from spiral.planning.workload import Lengths
from spiral.types import EngineFigures


class SimulatedEngine:
    """Samples up to `num_seats` sequences at a time; the others wait in order.

    All running sequences get one token per step, so a sequence that begins after `n` steps ends after `n` plus the
    length of its completion: nothing is done per token. `now` and results are in seconds of simulated time.
    """

    def __init__(self, speeds: Speeds, num_seats: int) -> None:
        self._speeds = speeds
        self._num_seats = num_seats
        self._running: list[tuple[float, int, Callable[[float], None]]] = []  # a heap: the step they end after
        self._waiting: deque[tuple[Lengths, Callable[[float], None]]] = deque()
        self._num_begun = 0
        self._steps = 0.0
        self._stalled_s = 0.0  # prompts and weights to be done before the next step
        self._now = 0.0
        self.busy_s = 0.0  # time with at least one sequence
        self.seat_s = 0.0  # integral of the number of running sequences

    def submit(self, turn: Lengths, done: Callable[[float], None], now: float) -> None:
        """Sample a completion; `done` is called with the time at which it ends."""
        self._advance(now)
        self._waiting.append((turn, done))
        self._fill()

    def load(self, now: float) -> None:
        """Load new weights: no token is sampled meanwhile."""
        self._advance(now)
        self._stalled_s += self._speeds.sync_s

    def next_end(self) -> float:
        """When the next sequence ends, if nothing is submitted before; infinity if there is none."""
        if not self._running:
            return float("inf")
        return self._now + self._stalled_s + max(0.0, self._running[0][0] - self._steps) * self._step_s()

    def finish(self, now: float) -> None:
        """End the sequences that have ended by `now`."""
        self._advance(now)
        ended = []
        least_s = 1e-9 * (1.0 + now)  # shorter times are lost in the rounding of `now`
        while self._running and (self._running[0][0] - self._steps) * self._step_s() <= least_s:
            ended.append(heapq.heappop(self._running)[2])
        self._fill()
        for done in ended:
            done(now)

    def figures(self) -> EngineFigures:
        """What the limit on matches in flight depends on."""
        return EngineFigures(running=len(self._running), waiting=len(self._waiting))

    def _step_s(self) -> float:
        return self._speeds.step_s + len(self._running) * self._speeds.sequence_s

    def _advance(self, now: float) -> None:
        elapsed_s, self._now = now - self._now, now
        if not self._running:
            self._stalled_s = max(0.0, self._stalled_s - elapsed_s)
            return
        self.busy_s += elapsed_s
        self.seat_s += elapsed_s * len(self._running)
        stalled_s = min(elapsed_s, self._stalled_s)
        self._stalled_s -= stalled_s
        self._steps += (elapsed_s - stalled_s) / self._step_s()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._num_seats:
            turn, done = self._waiting.popleft()
            self._num_begun += 1
            self._stalled_s += turn.prompt * self._speeds.prompt_s
            heapq.heappush(self._running, (self._steps + turn.completion, self._num_begun, done))
