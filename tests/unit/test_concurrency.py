"""How many matches an engine plays at once."""

from spiral.rollout.concurrency import Concurrency
from spiral.types import EngineFigures


def limits(concurrency: Concurrency, figures: EngineFigures, seconds: int) -> list[int]:
    """The limit after each of some seconds with unchanging figures, while as many matches as allowed are played."""
    found = []
    for second in range(seconds):
        concurrency.update(figures, concurrency.limit, float(second))
        found.append(concurrency.limit)
    return found


def test_it_starts_with_one_match_per_sequence_and_asks_for_a_few_more() -> None:
    concurrency = Concurrency(64)
    assert concurrency.limit == 64
    assert concurrency.update(EngineFigures(running=64), 64, 0.0) == 64 + 8 + 1


def test_it_grows_while_the_engine_has_room_up_to_a_bound() -> None:
    assert limits(Concurrency(64), EngineFigures(running=40, kv_use=0.2), 3) == [68, 72, 76]
    assert limits(Concurrency(64), EngineFigures(running=40, kv_use=0.2), 100)[-1] == 256


def test_it_stays_where_it_is_when_the_engine_is_full() -> None:
    assert limits(Concurrency(64), EngineFigures(running=64, kv_use=0.5), 3) == [64, 64, 64]


def test_it_shrinks_when_the_cache_is_full_but_not_below_one() -> None:
    assert limits(Concurrency(64), EngineFigures(running=30, kv_use=0.97), 3) == [57, 51, 45]
    assert limits(Concurrency(64), EngineFigures(running=30, kv_use=0.97), 100)[-1] == 1


def test_a_preemption_shrinks_it_once() -> None:
    assert limits(Concurrency(64), EngineFigures(running=64, kv_use=0.9, preemptions=3), 3) == [57, 57, 57]


def test_a_queue_shrinks_it_to_the_number_of_sequences() -> None:
    concurrency = Concurrency(64)
    concurrency.limit = 100
    assert limits(concurrency, EngineFigures(running=64, waiting=30, kv_use=0.5), 6) == [90, 81, 72, 64, 64, 64]


def test_it_is_adjusted_once_a_second() -> None:
    concurrency = Concurrency(64)
    for tenth in range(10):
        concurrency.update(EngineFigures(running=40), concurrency.limit, tenth / 10)
    assert concurrency.limit == 68
