"""How an evaluation gets the average of the weights: no training match is under way while engines hold it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from spiral.cluster.cluster import Cluster
from spiral.cluster.dispatcher import Dispatcher
from spiral.cluster.turns import Turns
from spiral.config import Config, GameChoice
from spiral.league.past import PastSelves
from spiral.league.schedule import Schedule
from spiral.types import WeightsRef
from tests.unit.test_dispatcher import header


def test_training_matches_end_before_the_average_is_loaded_and_go_on_after_the_policy_is() -> None:
    events: list[str] = []
    dispatcher = Dispatcher(
        Schedule(0, [GameChoice(id="kuhn_poker")]).next_match, batch_size=2, max_staleness=1, num_steps=9
    )
    dispatcher.join("a", room=2)
    dealt = list(dispatcher.deals()["a"])

    def ask(method: str, version: int, averaged: bool) -> WeightsRef:
        return WeightsRef(version=version, location="average" if averaged else "policy", averaged=averaged)

    def update(version: int, load: Callable[[Any], Any], loaded: Callable[[], None] = lambda: None) -> None:
        events.append(f"{load.__self__._weights.location}, {dispatcher.num_running} running")  # type: ignore[attr-defined]
        deal()

    def deal() -> None:
        events.append(f"dealt {sum(map(len, dispatcher.deals().values()))}")

    def wait(done: Callable[[], bool], interruptible: bool) -> None:
        assert interruptible
        while not done():
            match = dealt.pop()
            assert dispatcher.finished("a", match.ticket, header(match.match)) is not None
            deal()

    tree = {"steps": 1, "model": {"name": "m"}, "games": [{"id": "kuhn_poker"}]}
    cluster: Any = Cluster.__new__(Cluster)
    cluster._config = Config.model_validate(tree)
    cluster._past, cluster._published_past = PastSelves(cluster._config), {}
    cluster._dispatcher, cluster._reactor = dispatcher, SimpleNamespace(wait=wait)
    cluster.learners = SimpleNamespace(ask=ask, hosts=[None])
    cluster.generators = SimpleNamespace(update=update, hosts=list, deal=deal)
    cluster.turns = Turns(cluster.generators, cluster.learners, is_shared=False)

    cluster.sync(0)
    with cluster.averaged(0):
        events.append("evaluation")
    assert events == [
        *("policy, 2 running", "dealt 0"),
        *("dealt 0", "dealt 0"),  # the two matches end, and no others begin
        *("average, 0 running", "dealt 0", "evaluation"),
        *("policy, 0 running", "dealt 0", "dealt 2"),
    ]
