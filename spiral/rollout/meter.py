"""Counts what an engine does. Imports nothing heavy."""

import time
from dataclasses import dataclass, field

from spiral.types import EngineFigures


@dataclass(slots=True)
class Meter:
    """The counters behind `EngineFigures`, kept by the engine's driver.

    Time is counted as busy from `begin` to the last step, so the driver calls `begin` whenever it starts to step again.
    `progress_s` is the time.monotonic() at which an engine last finished a step or a request.
    """

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    num_tokens: int = 0
    busy_s: float = 0.0
    seat_s: float = 0.0
    paused_s: float = 0.0
    progress_s: float = field(default_factory=lambda: time.monotonic())
    _started_s: float = field(default_factory=lambda: time.monotonic())
    _counted_s: float = field(default_factory=lambda: time.monotonic())
    _paused_at_s: float | None = None

    def begin(self) -> None:
        """Sequences arrived at an idle engine, or sampling goes on after a pause."""
        self._counted_s = time.monotonic()

    def step(self, running: int, waiting: int, kv_use: float, num_finished: int) -> None:
        """A step ended, and `num_finished` sequences with it; the other numbers are those after the step."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._counted_s
        self.busy_s += elapsed_s
        self.seat_s += elapsed_s * (running + num_finished)
        self.running, self.waiting, self.kv_use = running, waiting, kv_use
        self._counted_s = self.progress_s = now_s

    def pause(self) -> None:
        """Sampling pauses."""
        self._paused_at_s = time.monotonic()

    def resume(self) -> None:
        """Sampling goes on."""
        if self._paused_at_s is not None:
            self.paused_s += time.monotonic() - self._paused_at_s
            self._paused_at_s = None
        self.begin()

    def figures(self) -> EngineFigures:
        """The figures of this moment. A pause that is under way counts."""
        now_s = time.monotonic()
        return EngineFigures(
            running=self.running,
            waiting=self.waiting,
            kv_use=self.kv_use,
            preemptions=self.preemptions,
            prefix_queries=self.prefix_queries,
            prefix_hits=self.prefix_hits,
            num_tokens=self.num_tokens,
            up_s=now_s - self._started_s,
            busy_s=self.busy_s,
            seat_s=self.seat_s,
            paused_s=self.paused_s + (0.0 if self._paused_at_s is None else now_s - self._paused_at_s),
        )
