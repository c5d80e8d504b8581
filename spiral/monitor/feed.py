"""Delivers a run's rows and episodes to one sink, in a thread of its own, from the files of the run."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spiral.errors import UserError, summary
from spiral.monitor.files import EVALUATIONS, MetricsFile, Row
from spiral.monitor.sink import Sink
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode

MAX_PAUSE_S = 60.0
"""Longest pause before a sink that failed is called again."""
STUCK_S = 60.0
"""A call that takes longer than this is reported."""

Make = Callable[[int, Mapping[str, Any]], Sink]


def read_if_there(files: EpisodeFiles, step: int) -> list[Episode]:
    """The episodes of a step, or none if their file is missing or damaged: the rows of a run do not depend on it."""
    if not files.path(step).exists():
        return []
    with contextlib.suppress(UserError):  # it may also have been pruned just now
        return files.read(step)
    return []


class Feed:
    """The thread of one sink. metrics.jsonl is its queue, so what a sink does not take now needs no memory.

    `make` constructs the sink from a step and a state; `saved` is what `state_dict` returned for the checkpoint that
    the run continues from.
    """

    def __init__(
        self, name: str, make: Make, run_dir: Path, saved: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self._label = f"monitor.sinks {name!r}"
        self._make = make
        self._say = say
        self._metrics = MetricsFile(run_dir)
        self._episodes, self._evaluations = EpisodeFiles(run_dir), EpisodeFiles(run_dir, EVALUATIONS)
        self._sink: Sink | None = None
        self._saved = dict(saved)
        self._next_step = int(saved.get("step", -1)) + 1
        self._rows: deque[Row] = deque()  # read, and not delivered
        self._offset = 0  # in metrics.jsonl, of the first line that has not been read
        self._has_episodes_of = -1  # a step whose episodes were delivered, and whose row may be still to come
        self._alarms: deque[tuple[int, str]] = deque(maxlen=100)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._failed = False
        self._num_failures = 0  # in a row
        self._call_began_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    # --- called by the run, and never waiting for the sink

    def wake(self) -> None:
        """There is a new row in metrics.jsonl."""
        self._wake.set()
        began_s = self._call_began_s
        if began_s is not None and time.monotonic() - began_s > STUCK_S and not self._num_failures:
            self._num_failures = 1
            self._say(f"warning: {self._label} has not answered for {STUCK_S:.0f} s; the run goes on without it")

    def alarm(self, step: int, text: str) -> None:
        self._alarms.append((step, text))
        self._wake.set()

    def state_dict(self) -> dict[str, Any]:
        """The newest step that the sink has the row of, and its state then."""
        return self._saved

    def begin_close(self, *, failed: bool) -> None:
        """Ask the sink to close once it has every row."""
        self._failed = failed
        self._closing.set()
        self._wake.set()

    def finish_close(self, deadline_s: float) -> bool:
        """Wait until the sink is closed, at most until `deadline_s` on the monotonic clock.

        Returns whether it has every row.
        """
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        if self._thread.is_alive():
            self._say, say = lambda _: None, self._say  # what it says from now on is too late
            say(f"warning: {self._label} was not ready in time, and may lack rows")
        elif self._num_failures:
            self._say(f"warning: {self._label} failed to the end, and may lack rows")
        return not (self._thread.is_alive() or self._num_failures)

    # --- the thread

    def _run(self) -> None:
        while True:
            is_last = self._closing.is_set()  # asked before looking for rows: none is written after it is set
            self._wake.clear()
            try:
                self._deliver()
            except Exception as error:  # noqa: BLE001 -- training does not depend on whoever watches it
                self._report(error)
                if is_last:
                    return
                self._closing.wait(min(2.0 ** (self._num_failures - 1), MAX_PAUSE_S))
                continue
            self._num_failures = 0
            if is_last:
                self._close()
                return
            self._wake.wait()

    def _deliver(self) -> None:
        """Hand over all that is there. Raises whatever the sink raises."""
        if self._sink is None:
            self._sink = self._call(self._make, max(0, self._next_step - 1), self._saved.get("state", {}))
            if self._sink.next_step is not None:
                self._next_step = self._sink.next_step
        while row := self._next_row():
            step = int(row["step"])
            if type(self._sink).episodes is not Sink.episodes and step > self._has_episodes_of and step > 0:
                if not self._has_episodes(step):
                    return  # its file is being written; the next row, or the end, comes after it
                if played := read_if_there(self._episodes, step):
                    self._call(self._sink.episodes, step, played)
                self._has_episodes_of = step
            self._call(self._sink.row, row, read_if_there(self._evaluations, step))
            self._rows.popleft()
            self._next_step = step + 1
            self._saved = {"step": step, "state": self._sink.state_dict()}
        while self._alarms:
            self._call(self._sink.alarm, *self._alarms[0])
            self._alarms.popleft()

    def _next_row(self) -> Row | None:
        """The next row to deliver, which stays the next one until it is taken from `_rows`."""
        if not self._rows:
            self._read_on()
        return self._rows[0] if self._rows else None

    def _read_on(self) -> None:
        rows, self._offset = self._metrics.read_on(self._offset)
        self._rows.extend(row for row in rows if row["step"] >= self._next_step)

    def _has_episodes(self, step: int) -> bool:
        """Whether the episode file of a step is complete, or will never be there."""
        if self._episodes.path(step).exists() or self._closing.is_set():
            return True
        self._read_on()
        return len(self._rows) > 1

    def _close(self) -> None:
        assert self._sink is not None
        try:
            line = self._call(self._sink.close, failed=self._failed)
        except Exception as error:  # noqa: BLE001
            self._report(error)
        else:
            if line:
                self._say(line)

    def _call(self, function: Callable[..., Any], *args: object, **keywords: object) -> Any:
        self._call_began_s = time.monotonic()
        try:
            return function(*args, **keywords)
        finally:
            self._call_began_s = None

    def _report(self, error: Exception) -> None:
        """Say once per failure, until the sink works again."""
        if not self._num_failures:
            self._say(f"warning: {self._label} failed, and is tried again: {summary(error)}")
        self._num_failures += 1
