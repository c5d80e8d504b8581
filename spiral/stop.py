"""A request to end a run, from a signal or another thread."""

import time


class StopRequested(Exception):
    """Ends what is being waited for. Matches in play are issued again when the run is resumed."""


class Stop:
    """A request to end the run after the step that the learner is in. The command line sets it from signals.

    `is_watched`: whether the run looks at it. Before, while the model is prepared, there is nothing to save.
    """

    def __init__(self) -> None:
        self.is_watched = False
        self._requested_s: float | None = None

    @property
    def requested(self) -> bool:
        return self._requested_s is not None

    @property
    def age_s(self) -> float:
        """Seconds since the request; 0 without one."""
        return 0.0 if self._requested_s is None else time.monotonic() - self._requested_s

    def request(self) -> None:
        """Ask the run to end."""
        self._requested_s = time.monotonic()
