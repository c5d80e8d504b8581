"""The counters of an engine: what is counted as busy, as seats and as a pause."""

import pytest

from spiral.rollout import meter
from spiral.rollout.meter import Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as the meter sees it."""
    now = [100.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    return now


def test_seats_are_the_time_of_each_step_times_the_sequences_in_it(clock: list[float]) -> None:
    counted = Meter()
    clock[0] = 110.0  # idle until now
    counted.begin()
    clock[0] = 112.0
    counted.step(running=3, waiting=2, kv_use=0.5, num_finished=1)  # 2 s with 4 sequences
    clock[0] = 113.0
    counted.step(running=0, waiting=0, kv_use=0.0, num_finished=5)  # 1 s with 5 sequences
    clock[0] = 120.0
    figures = counted.figures()
    assert (figures.up_s, figures.busy_s, figures.seat_s) == (20.0, 3.0, 13.0)
    assert (figures.running, figures.waiting, figures.kv_use) == (0, 0, 0.0)
    assert counted.progress_s == 113.0


def test_the_figures_of_now_are_those_after_the_last_step(clock: list[float]) -> None:
    counted = Meter()
    counted.step(running=3, waiting=2, kv_use=0.5, num_finished=1)
    figures = counted.figures()
    assert (figures.running, figures.waiting, figures.kv_use) == (3, 2, 0.5)


def test_a_pause_is_not_busy(clock: list[float]) -> None:
    counted = Meter()
    counted.begin()
    clock[0] = 101.0
    counted.step(running=2, waiting=0, kv_use=0.1, num_finished=0)
    counted.pause()
    clock[0] = 105.0
    counted.resume()
    clock[0] = 107.0
    counted.step(running=0, waiting=0, kv_use=0.0, num_finished=2)
    figures = counted.figures()
    assert (figures.paused_s, figures.busy_s, figures.seat_s) == (4.0, 3.0, 6.0)


def test_a_pause_counts_while_it_lasts(clock: list[float]) -> None:
    counted = Meter()
    counted.pause()
    clock[0] = 103.0
    assert counted.figures().paused_s == 3.0
