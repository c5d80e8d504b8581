"""The dispatcher and the inbox, without Ray: who gets which match, and how far ahead may be played."""

import heapq
import random
from collections.abc import Callable

import pytest

from spiral.cluster.dispatcher import Arrival, Dispatcher
from spiral.cluster.inbox import Inbox
from spiral.config import GameChoice
from spiral.league.schedule import Schedule
from spiral.types import Deal, EndReason, EpisodeHeader, Match


def new_schedule() -> Schedule:
    return Schedule(0, [GameChoice(id="kuhn_poker")])


def dispatcher(batch_size: int = 4, max_staleness: int = 0, num_steps: int = 100) -> Dispatcher:
    return Dispatcher(
        new_schedule().next_match, batch_size=batch_size, max_staleness=max_staleness, num_steps=num_steps
    )


def header(match: Match, end_reason: EndReason = "finished") -> EpisodeHeader:
    return EpisodeHeader(
        match=match, returns=(0.0, 0.0), end_reason=end_reason, turns=(), forfeit_by=None, duration_s=0.0, error=None
    )


def ids(deals: dict[str, list[Deal]]) -> dict[str, list[int]]:
    return {name: [deal.match.id for deal in of_one] for name, of_one in deals.items()}


def evaluation(number: int) -> Match:
    return Match(id=number, game="kuhn_poker", seed=1, players=("policy", "random"))


def test_matches_go_to_the_generator_with_the_fewest() -> None:
    table = dispatcher(batch_size=6)
    table.join("a", room=2)
    table.join("b", room=100)
    assert ids(table.deals()) == {"a": [0, 2], "b": [1, 3, 4, 5]}


def test_no_generator_gets_more_than_it_has_room_for() -> None:
    table = dispatcher(batch_size=100)
    table.join("a", room=3)
    assert ids(table.deals()) == {"a": [0, 1, 2]}
    assert table.deals() == {}
    table.set_room("a", 4)
    assert ids(table.deals()) == {"a": [3]}


def test_while_training_is_held_only_an_evaluation_is_dealt() -> None:
    table = dispatcher(batch_size=3)
    table.join("a", room=1)
    table.join("b", room=1)
    (lost,) = table.deals()["b"]
    table.holds_training = True
    table.leave("b")  # its match is to be dealt again
    table.join("b", room=3)
    assert table.deals() == {}
    table.submit([evaluation(7)])
    assert ids(table.deals()) == {"b": [7]}
    assert table.num_running == 1
    table.holds_training = False
    assert ids(table.deals()) == {"b": [lost.match.id, 2]}


def test_a_finished_match_makes_room() -> None:
    table = dispatcher(batch_size=100)
    table.join("a", room=1)
    (deal,) = table.deals()["a"]
    arrival = table.finished("a", deal.ticket, header(deal.match))
    assert arrival == Arrival(header(deal.match), version=0, trains=True)
    assert ids(table.deals()) == {"a": [1]}


@pytest.mark.parametrize(("max_staleness", "most"), [(0, 4), (1, 8), (3, 8)])
def test_staleness_limits_what_is_started(max_staleness: int, most: int) -> None:
    table = dispatcher(batch_size=4, max_staleness=max_staleness)
    table.join("a", room=1000)
    dealt = table.deals()["a"]
    assert len(dealt) == most
    for deal in dealt:
        table.finished("a", deal.ticket, header(deal.match))
    assert table.deals() == {}, "episodes that wait to be trained on count as well"
    table.version = 1
    assert len(table.deals()["a"]) == 4


def test_matches_of_earlier_versions_do_not_keep_others_from_starting() -> None:
    table = dispatcher(batch_size=4, max_staleness=3)
    table.join("a", room=1000)
    started = []
    for version in range(5):
        table.version = version
        started.append(sum(len(deals) for deals in table.deals().values()))
    assert started == [8, 12, 4, 4, 4]  # none ends: up to version + 2 batches at this version, version + 4 in all


def test_play_that_is_faster_than_learning_is_one_version_old() -> None:
    simulation = Simulation(4, lambda _: 0.2, lambda: float("inf"))
    simulation.run(num_steps=60)
    assert max(simulation.staleness) == 1


def test_no_more_is_started_than_the_run_trains_on() -> None:
    table = dispatcher(batch_size=4, max_staleness=5, num_steps=2)
    table.join("a", room=1000)
    assert len(table.deals()["a"]) == 8


def test_a_void_match_is_replaced() -> None:
    table = dispatcher(batch_size=2)
    table.join("a", room=10)
    first, _ = table.deals()["a"]
    table.finished("a", first.ticket, header(first.match, "void"))
    assert ids(table.deals()) == {"a": [2]}


def test_matches_of_an_evaluation_come_first_and_need_no_staleness() -> None:
    table = dispatcher(batch_size=1)
    table.join("a", room=10)
    table.deals()
    table.submit([evaluation(0), evaluation(1)])
    dealt = table.deals()["a"]
    assert [deal.trains for deal in dealt] == [False, False]
    assert table.num_running == 1


def test_matches_of_a_dead_generator_are_dealt_again_under_new_tickets() -> None:
    table = dispatcher(batch_size=2)
    table.join("a", room=10)
    old = table.deals()["a"]
    assert [given_up for _, given_up in table.leave("a")] == [False, False]
    table.join("b", room=10)
    new = table.deals()["b"]
    assert [deal.match for deal in new] == [deal.match for deal in old]
    assert {deal.ticket for deal in new}.isdisjoint(deal.ticket for deal in old)
    assert table.finished("a", old[0].ticket, header(old[0].match)) is None, "late news of the dead generator"


def test_the_match_that_blocked_a_generator_is_given_up_and_the_others_are_not() -> None:
    table = dispatcher(batch_size=3)
    table.join("a", room=10)
    deals = table.deals()["a"]
    lost = table.leave("a", culprit=deals[1].ticket)
    assert [(deal.match.id, given_up) for deal, given_up in lost] == [(0, False), (1, True), (2, False)]
    table.join("b", room=10)
    assert ids(table.deals()) == {"b": [0, 2, 3]}


def test_after_two_deaths_a_match_is_played_alone_and_given_up_at_the_third() -> None:
    table = dispatcher(batch_size=2)
    for name in ("a", "b"):
        table.join(name, room=10)
        assert ids(table.deals()) == {name: [0, 1]}
        table.leave(name)
    table.join("c", room=10)
    (alone,) = table.deals()["c"]
    assert alone.match.id == 0
    assert table.deals() == {}, "nothing is dealt beside a suspect"
    table.finished("c", alone.ticket, header(alone.match))  # innocent
    (alone,) = table.deals()["c"]
    assert alone.match.id == 1
    assert [(deal.match.id, given_up) for deal, given_up in table.leave("c")] == [(1, True)]
    table.join("d", room=10)
    assert ids(table.deals()) == {"d": [2]}


def test_an_episode_that_was_lost_is_played_again() -> None:
    table = dispatcher(batch_size=1)
    table.join("a", room=10)
    (deal,) = table.deals()["a"]
    table.finished("a", deal.ticket, header(deal.match))
    assert table.deals() == {}
    table.lost(deal.match)
    assert ids(table.deals()) == {"a": [0]}


def test_a_batch_takes_the_oldest_first_and_is_in_match_order() -> None:
    inbox = Inbox(batch_size=2)
    matches = [Match(id=i, game="g", seed=i, players=("policy", "policy")) for i in range(3)]
    arrivals = [Arrival(header(match), version, True) for match, version in zip(matches, (2, 1, 0), strict=True)]
    inbox.expect(arrivals)
    assert inbox.must_wait(0)
    assert not inbox.is_full()
    inbox.received(arrivals)
    assert not inbox.must_wait(5)
    assert [taken.match.id for taken in inbox.take()] == [1, 2]
    assert len(inbox) == 1


class Simulation:
    """A run in simulated time: matches with given lengths, generators that die, and a learner that takes its time."""

    def __init__(self, max_staleness: int, length: Callable[[int], float], deaths: Callable[[], float]) -> None:
        self.schedule, self.inbox = new_schedule(), Inbox(16)
        self.table = Dispatcher(self.schedule.next_match, batch_size=16, max_staleness=max_staleness, num_steps=60)
        self.max_staleness, self.length, self.deaths = max_staleness, length, deaths
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.now = 0.0
        self.num_events = self.num_deaths = 0
        self.trained: list[int] = []
        self.void: list[int] = []
        self.staleness: list[int] = []

    def after(self, delay: float, event: Callable[[], None]) -> None:
        self.num_events += 1
        heapq.heappush(self.events, (self.now + delay, self.num_events, event))

    def join(self, name: str) -> None:
        self.table.join(name, 8)
        self.after(self.deaths(), lambda: self.die(name))
        self.deal()

    def die(self, name: str) -> None:
        self.num_deaths += 1
        for deal, given_up in self.table.leave(name):
            if given_up:
                self.schedule.done([deal.match.id])
                self.void.append(deal.match.id)
        self.after(3.0, lambda: self.join(f"{name}'"))
        self.deal()

    def deal(self) -> None:
        for name, deals in self.table.deals().items():
            for deal in deals:
                self.after(self.length(deal.match.id), lambda n=name, d=deal: self.end(n, d))  # type: ignore[misc]

    def end(self, name: str, deal: Deal) -> None:
        arrival = self.table.finished(name, deal.ticket, header(deal.match))
        if arrival is not None:
            self.inbox.expect([arrival])
            self.inbox.received([arrival])
            self.deal()

    def run(self, num_steps: int) -> None:
        for name in ("a", "b", "c"):
            self.join(name)
        for _ in range(num_steps):
            version = self.table.version
            while not self.inbox.is_full() or self.table.due():
                self.advance()
            starts = {number: arrival.version for number, arrival in self.inbox._here.items()}
            batch = [taken.match.id for taken in self.inbox.take()]
            self.staleness += [version - starts[number] for number in batch]
            self.trained += batch
            self.schedule.done(batch)
            done_at = self.now + 5.0
            while self.events and self.events[0][0] < done_at:
                self.advance()
            self.now = done_at
            self.table.version += 1
            self.deal()

    def advance(self) -> None:
        self.now, _, event = heapq.heappop(self.events)
        event()


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_too_old_lost_or_repeated_while_generators_die(max_staleness: int, seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.expovariate(1) * (30 if rng.random() < 0.02 else 1) for _ in range(2000)]
    simulation = Simulation(max_staleness, lambda k: lengths[k], lambda: rng.expovariate(1 / 60))
    simulation.run(num_steps=60)
    assert simulation.num_deaths > 3
    assert max(simulation.staleness) <= max_staleness
    assert len(set(simulation.trained)) == len(simulation.trained) == 60 * 16
    state = simulation.schedule.state_dict()
    assert sorted([*simulation.trained, *simulation.void, *state["open"]]) == list(range(state["next"]))


def test_long_matches_are_trained_on_as_often_as_they_are_played() -> None:
    """Drained, an asynchronous run has trained on exactly the matches that a synchronous one has."""
    lengths = [30.0 if k % 50 == 7 else 1.0 for k in range(1000)]
    trained = {}
    for max_staleness in (0, 3):
        simulation = Simulation(max_staleness, lambda k: lengths[k], lambda: float("inf"))
        simulation.run(num_steps=60)
        trained[max_staleness] = sorted(simulation.trained)
    assert trained[0] == trained[3] == list(range(960))
