"""Episodes on their way to the learner's ranks, with plain futures in the place of Ray's references."""

from concurrent.futures import Future
from typing import Any

import pytest
import ray

from spiral.cluster.delivery import Delivery
from spiral.cluster.dispatcher import Arrival
from spiral.cluster.inbox import Inbox
from spiral.cluster.placement import Node, Seat
from spiral.cluster.reactor import Reactor
from spiral.config import RunInterrupted
from spiral.stop import Stop
from spiral.types import EpisodeHeader, Match


class Rank:
    """A rank of the learner, whose calls end when the test says so."""

    name, log = "learner_0", "-"
    seat = Seat(
        name=name, node=Node(id="n", address="127.0.0.1", hostname="here", cpus=1, gpus=0, is_ours=True), cpus=0, gpus=0
    )

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], Future[Any]]] = []

    def aside(self, method: str, *references: Any) -> Any:
        assert method == "receive"
        future: Future[Any] = Future()
        self.calls.append((references, future))
        reference = type("Reference", (), {})()
        reference.future = lambda: future
        return reference


class Setting:
    """A delivery to two ranks, for batches of 16."""

    def __init__(self) -> None:
        self.inbox, self.reactor = Inbox(16), Reactor(Stop(), 1.0)
        self.ranks = [Rank(), Rank()]
        self.lost: list[int] = []
        self.delivery = Delivery(
            self.inbox,
            self.reactor,
            lambda: self.ranks,  # type: ignore[arg-type, return-value]
            lambda matches: self.lost.extend(match.id for match in matches),
        )

    def add(self, *match_ids: int) -> None:
        self.delivery.add([arrival(match_id) for match_id in match_ids], f"episodes of {match_ids}")

    def end(self, call: int, error: Exception | None = None, ranks: tuple[int, ...] = (0, 1)) -> None:
        for rank in ranks:
            future = self.ranks[rank].calls[call][1]
            future.set_exception(error) if error else future.set_result(None)
        self.reactor._pump(0.1)

    def sent(self) -> list[tuple[Any, ...]]:
        assert [references for references, _ in self.ranks[0].calls] == [r for r, _ in self.ranks[1].calls]
        return [references for references, _ in self.ranks[0].calls]


def arrival(match_id: int) -> Arrival:
    match = Match(id=match_id, game="nim", seed=match_id, players=("policy", "policy"))
    header = EpisodeHeader(
        match=match, returns=(1.0, -1.0), end_reason="finished", turns=(), forfeit_by=None, duration_s=1.0, error=None
    )
    return Arrival(header, 0, True)


def test_reports_share_a_call() -> None:
    setting = Setting()
    setting.add(0)
    assert setting.sent() == []
    setting.add(1)  # 2 of 16: an eighth of a batch
    setting.add(2, 3, 4)
    assert setting.sent() == [("episodes of (0,)", "episodes of (1,)"), ("episodes of (2, 3, 4)",)]
    setting.end(0)
    assert len(setting.inbox) == 2


def test_what_fills_a_batch_is_not_held_back() -> None:
    setting = Setting()
    setting.add(*range(15))
    setting.add(15)
    assert len(setting.sent()) == 2
    setting.end(0)
    assert not setting.inbox.is_full()
    setting.end(1, ranks=(0,))
    assert not setting.inbox.is_full(), "one rank does not have the last episode"
    setting.end(1, ranks=(1,))
    assert setting.inbox.is_full()


def test_a_lost_parcel_costs_the_others_nothing() -> None:
    setting = Setting()
    gone = ray.exceptions.ObjectLostError("0" * 56, "", "")
    setting.add(0)
    setting.add(1)
    setting.end(0, gone)
    assert setting.sent()[1:] == [("episodes of (0,)",), ("episodes of (1,)",)]
    setting.end(1)
    setting.end(2, gone)
    assert setting.lost == [1]
    assert len(setting.inbox) == 1


def test_a_learner_that_dies_ends_the_run() -> None:
    setting = Setting()
    setting.add(0, 1)
    setting.end(0, ray.exceptions.ActorDiedError())
    with pytest.raises(RunInterrupted, match="learner_0 on here died"):
        setting.reactor.wait(lambda: False, interruptible=True)
