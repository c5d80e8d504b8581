"""How many matches an engine plays at once: enough to keep it full, and no more than its KV cache holds.

A match holds a sequence only while the policy is to move, so the number that keeps `max_num_seqs` sequences running
depends on the game, and the number that the KV cache holds on the lengths of prompts. Both are found by looking:
additive increase while the engine has room, multiplicative decrease when it preempts or queues.
"""

from spiral.types import EngineFigures

INTERVAL_S = 1.0
"""Time between two adjustments, so that each sees the effect of the one before."""
KV_FULL = 0.95
KV_ROOM = 0.8
MOST_PER_SEAT = 4
"""The limit never exceeds this many matches per sequence that the engine can run."""


class Concurrency:
    """The limit on matches in flight in one engine with `num_seats` sequences (max_num_seqs)."""

    def __init__(self, num_seats: int) -> None:
        self.limit = num_seats
        self._num_seats = num_seats
        self._preemptions = 0
        self._adjusted_s = float("-inf")

    def update(self, figures: EngineFigures, num_playing: int, now_s: float) -> int:
        """Adjust the limit to what the engine does now; return the number of matches to hold, a few of them waiting.

        `now_s` is a monotonic time.
        """
        if now_s - self._adjusted_s >= INTERVAL_S:
            self._adjusted_s = now_s
            self._adjust(figures, num_playing)
        return self.limit + self.limit // 8 + 1  # a few in reserve: the next ones begin without asking the driver

    def _adjust(self, figures: EngineFigures, num_playing: int) -> None:
        preempted = figures.preemptions > self._preemptions
        self._preemptions = figures.preemptions
        crowded = figures.waiting > self._num_seats // 8
        if preempted or figures.kv_use > KV_FULL:
            self.limit = max(1, min(self.limit, num_playing) * 9 // 10)
        elif crowded:
            self.limit = max(self._num_seats, self.limit * 9 // 10)
        elif num_playing >= self.limit and figures.running < self._num_seats and figures.kv_use < KV_ROOM:
            self.limit = min(self.limit + max(1, self.limit // 16), MOST_PER_SEAT * self._num_seats)
