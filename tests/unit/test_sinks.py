"""Sinks of metrics and episodes: what they receive, what resumes, and what a failing one does."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from spiral.config import Config, UserError
from spiral.monitor.sinks import Sink, Sinks
from spiral.types import Episode


def config(*names: str, wandb_mode: str = "disabled") -> Config:
    tree = {
        "steps": 1,
        "model": {"name": "builtin/tiny"},
        "games": [{"id": "kuhn_poker"}],
        "monitor": {"sinks": names},
        "wandb": {"mode": wandb_mode},
    }
    return Config.model_validate(tree)


class Counting(Sink):
    """Counts rows, across resumes."""

    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        self.count = state.get("count", 0)

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def close(self, *, failed: bool) -> str | None:
        return f"{self.count} rows, failed: {failed}"


class Failing(Sink):
    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        raise ConnectionError("server away")


class CannotStart(Sink):
    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        raise ValueError("no key")


def not_a_sink(config: Config, first_step: int, state: Mapping[str, Any]) -> str:
    return "a string"


COUNTING, FAILING = f"{__name__}:Counting", f"{__name__}:Failing"


def test_the_state_of_a_sink_is_restored() -> None:
    said: list[str] = []
    first = Sinks(config(COUNTING), 0, {}, said.append)
    first.row({"step": 1}, ())
    first.row({"step": 2}, ())
    second = Sinks(config(COUNTING), 2, first.state_dict(), said.append)
    second.row({"step": 3}, ())
    second.close(failed=False)
    assert second.state_dict() == {COUNTING: {"count": 3}}
    assert said == ["3 rows, failed: False"]


def test_a_failing_sink_is_reported_once_and_does_not_affect_others() -> None:
    said: list[str] = []
    sinks = Sinks(config(FAILING, COUNTING), 0, {}, said.append)
    for step in (1, 2, 3):
        sinks.row({"step": step}, ())
    assert said == [f"warning: monitor.sinks {FAILING!r}: row() failed: ConnectionError: server away"]
    assert sinks.state_dict() == {COUNTING: {"count": 3}}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (f"{__name__}:CannotStart", "cannot start: ValueError: no key"),
        (f"{__name__}:not_a_sink", "made a str, expected a subclass of spiral.Sink"),
    ],
)
def test_a_sink_that_cannot_start_is_named_in_one_line(name: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        Sinks(config(name), 0, {}, print)
    assert str(caught.value) == f"monitor.sinks {name!r} {complaint}"


def test_wandb_is_left_out_where_it_is_disabled() -> None:
    assert Sinks(config("wandb"), 0, {}, print).state_dict() == {}
