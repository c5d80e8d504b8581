"""The memory of a run's processes, over their lives."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import psutil  # type: ignore[import-untyped]

EVERY_S = 5.0
WARM_UP_S = 60.0
WARM_UP_STEPS = 20
"""A process grows in its first minute, and while the run takes its first steps with it: that is left out."""
SETTLING_S = 900.0
"""Of a life that is more than twice as long as this, only the second half counts: generators were seen to grow for half
an hour, and no longer."""
LONG_S = 120.0
"""A life that is shorter than this after its warm-up has no slope of its own."""
MOST = 100.0
"""MiB per hour that count as flat."""
Life = tuple[np.ndarray, np.ndarray]
"""Seconds, and MiB."""
HEAD = f"{'role':<20} {'lives':>5} {'longest s':>9} {'MiB':>6}  {'MiB/h':>14}  {'worst life MiB/h':>16}"


class Memory:
    """Resident memory by role and process. Two processes with one id have different start times."""

    def __init__(self) -> None:
        self._lives: dict[str, dict[tuple[int, float], list[tuple[float, float]]]] = defaultdict(dict)
        self._ready: dict[tuple[int, float], int] = {}  # the number of steps that end a process's warm-up
        self._next_s = 0.0

    def sample(self, processes: Callable[[], list[tuple[str, psutil.Process]]], num_steps: int) -> None:
        """Note the memory of each process, if EVERY_S have passed since the last time.

        `num_steps` counts all steps so far, those that were taken again after a restart included.
        """
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + EVERY_S
        for role, process in processes():
            try:
                born = process.create_time()
                is_ready = num_steps >= self._ready.setdefault((process.pid, born), num_steps + WARM_UP_STEPS)
                if is_ready and time.time() - born > WARM_UP_S:
                    life = self._lives[role].setdefault((process.pid, born), [])
                    life.append((now, process.memory_info().rss / 2**20))
            except psutil.NoSuchProcess:
                continue

    def table(self) -> Iterator[str]:
        """Per role: the common slope of all its lives with its standard error, and the steepest of the long ones."""
        yield HEAD
        for role, lives, slope, error in self._slopes():
            longest = max(times[-1] - times[0] for times, _ in lives)
            largest = max(sizes.max() for _, sizes in lives)
            long = [_slope([life])[0] for life in lives if life[0][-1] - life[0][0] > LONG_S]
            worst = f"{max(long):+.0f}" if long else "-"
            common = f"{slope:+.0f} ± {error:.0f}"
            yield f"{role:<20} {len(lives):>5} {longest:>9.0f} {largest:>6.0f}  {common:>14}  {worst:>16}"

    def checks(self) -> Iterator[tuple[bool, str]]:
        """Per role: whether its memory is flat, as far as these lives tell."""
        for role, _, slope, error in self._slopes():
            yield slope - 2 * error < MOST, f"memory of {role}: {slope:+.0f} ± {error:.0f} MiB/h"

    def _slopes(self) -> Iterator[tuple[str, list[Life], float, float]]:
        """(role, its lives after their warm-up, their common slope and its standard error in MiB/h)."""
        for role, samples in sorted(self._lives.items()):
            lives: list[Life] = [_settled(tuple(np.array(life).T)) for life in samples.values() if len(life) > 2]
            if lives:
                yield role, lives, *_slope(lives)


def _settled(life: Life) -> Life:
    """The part of a life whose slope counts."""
    times, sizes = life
    middle = (times[0] + times[-1]) / 2
    keep = times >= middle if times[-1] - times[0] > 2 * SETTLING_S else times >= times[0]
    return times[keep], sizes[keep]


def _slope(lives: list[Life]) -> tuple[float, float]:
    """The slope that fits all lives, each of which has a level of its own, and its standard error; in MiB/h."""
    times = np.concatenate([times - times.mean() for times, _ in lives])
    sizes = np.concatenate([sizes - sizes.mean() for _, sizes in lives])
    slope = times @ sizes / (times @ times)
    variance = ((sizes - slope * times) ** 2).sum() / max(1, len(times) - len(lives) - 1)
    return 3600 * slope, 3600 * np.sqrt(variance / (times @ times))
