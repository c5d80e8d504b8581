"""The driver's event loop, with plain futures in the place of Ray's references."""

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from spiral.cluster.hosts import Host, Setup
from spiral.cluster.placement import Node, Seat
from spiral.cluster.reactor import Outcome, Reactor
from spiral.config import RunInterrupted
from spiral.stop import Stop, StopRequested

NODE = Node(id="n", address="127.0.0.1", hostname="here", cpus=1, gpus=0, is_ours=True)
SEAT = Seat(name="generator_0", node=NODE, cpus=0, gpus=0)
HOST = Host(SEAT, None, Setup(SEAT, log="/logs/generator_0.log"))  # type: ignore[arg-type]


class Reference:
    """A reference whose call ends when the test says so."""

    def __init__(self) -> None:
        self._future: Future[Any] = Future()

    def future(self) -> "Future[Any]":
        return self._future

    def end(self, value: Any = None, error: Exception | None = None) -> None:
        if error is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(value)


def later(delay_s: float, action: Any) -> None:
    threading.Timer(delay_s, action).start()


def test_results_come_in_the_order_of_the_calls() -> None:
    first, second = Reference(), Reference()
    later(0.02, lambda: second.end(2))
    later(0.05, lambda: first.end(1))
    assert Reactor(Stop(), 1.0).get_all([(HOST, first), (HOST, second)], 5.0, "answer") == [1, 2]


def test_other_calls_are_handled_while_one_is_waited_for() -> None:
    reactor, seen, waited_for = Reactor(Stop(), 1.0), list[Outcome](), Reference()
    other = Reference()
    reactor.watch(other, seen.append)
    other.end("news")
    later(0.05, waited_for.end)
    reactor.get(HOST, waited_for, 5.0, "answer")
    assert seen == [Outcome("news")]


def test_a_late_actor_is_named_with_its_machine_and_log() -> None:
    with pytest.raises(RunInterrupted, match=r"generator_0 on here did not answer within 0 s; its log: /logs/"):
        Reactor(Stop(), 1.0).get(HOST, Reference(), 0.05, "answer")


def test_the_first_failure_is_raised_at_once() -> None:
    failed = Reference()
    failed.end(error=OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        Reactor(Stop(), 1.0).get_all([(HOST, Reference()), (HOST, failed)], 60.0, "write")


def test_a_stop_ends_interruptible_waits_at_once_and_others_after_the_grace_time() -> None:
    stop = Stop()
    reactor = Reactor(stop, grace_s=0.2)
    stop.request()
    start_s = time.monotonic()
    with pytest.raises(StopRequested):
        reactor.wait(lambda: False, interruptible=True)
    assert time.monotonic() - start_s < 0.1
    with pytest.raises(StopRequested):
        reactor.wait(lambda: False)
    assert time.monotonic() - start_s >= 0.2


def test_a_failure_waits_for_what_the_learner_does() -> None:
    reactor, step = Reactor(Stop(), 1.0), Reference()
    reactor.fail(RunInterrupted("no generator is left"))
    later(0.05, lambda: step.end("learned"))
    assert reactor.get(HOST, step, 5.0, "learn") == "learned"
    with pytest.raises(RunInterrupted, match="no generator is left"):
        reactor.wait(lambda: False, interruptible=True)


def test_what_a_handler_that_raises_leaves_is_handled_later() -> None:
    reactor, seen = Reactor(Stop(), 1.0), list[Outcome]()

    def fail(_: Outcome) -> None:
        raise RunInterrupted("first")

    bad, good = Reference(), Reference()
    reactor.watch(bad, fail)
    reactor.watch(good, seen.append)
    bad.end()
    good.end("second")
    with pytest.raises(RunInterrupted):
        reactor.wait(lambda: False, limit_s=1.0)
    reactor.wait(lambda: bool(seen), limit_s=1.0)
    assert seen == [Outcome("second")]


def test_ticks_go_on_during_a_wait() -> None:
    reactor, ticks = Reactor(Stop(), 1.0), list[float]()
    reactor.on_tick.append(lambda: ticks.append(time.monotonic()))
    reactor.wait(lambda: len(ticks) == 3, limit_s=10.0)
    assert ticks[2] - ticks[0] >= 0.9
