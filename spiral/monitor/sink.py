"""The interface of a sink."""

from collections.abc import Mapping, Sequence
from typing import Any

from spiral.config import Config
from spiral.types import Episode


class Sink:
    """Base class of sinks. Override what is needed; every method here does nothing.

    Constructed with the config, the newest step whose row `state` accounts for (0 for a new run), and what `state_dict`
    returned then ({} for a new run). It gets every row from there on, in order. All calls come from one thread, which
    is not the run's: a sink may take its time. One that raises is called again with the same row, after a pause that
    grows to a minute; the constructor as well. So a row comes again if `row` fails half-way.
    """

    next_step: int | None = None
    """Set by a constructor that knows better than `state` which row comes next."""

    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        pass

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """The episodes that a step trained on, in match-id order; called before `row`.

        Not called for a step whose file `episodes.keep` has removed by then, or is damaged.
        """

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        """The metrics of a step, with flat keys (`step` among them), and a few episodes of its evaluation."""

    def alarm(self, step: int, text: str) -> None:
        """A warning of the run's watchdog. Lost if the run ends before the sink takes it."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON-serialisable data; stored in every checkpoint."""
        return {}

    def close(self, *, failed: bool) -> str | None:
        """The run ended, `failed` or not. Returns a line for the console, or None."""
        return None
