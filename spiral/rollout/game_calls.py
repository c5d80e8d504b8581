"""Which match is inside a call of its game: a game that does not return blocks the event loop of all matches."""

import time
from types import TracebackType

from spiral.rollout.script_threads import ScriptThreads
from spiral.types import Match


class GameCrashed(RuntimeError):
    """A game raised something other than IllegalAction, or it or a scripted player took too long for a move."""


class GameCalls:
    """The calls of the games of all matches in one event loop, which is inside one of them at a time.

    `threads` runs the scripted players of these matches.
    """

    def __init__(self) -> None:
        self.threads = ScriptThreads()
        self._now: tuple[Match, float] | None = None

    def inside(self, match: Match, limit_s: float) -> "GuardedCall":
        """A context manager for calls of the match's game, to be used for one after another: see `GuardedCall`."""
        return GuardedCall(self, match, limit_s)

    def blocked(self, limit_s: float) -> tuple[Match, float] | None:
        """The match whose game has not returned from a call for `limit_s` seconds or more, and for how many.

        May be called from any thread.
        """
        now = self._now
        if now is None:
            return None
        elapsed_s = time.monotonic() - now[1]
        return (now[0], elapsed_s) if elapsed_s >= limit_s else None


class GuardedCall:
    """Notes when the match's game is called and raises GameCrashed if the call raises, or takes more than `limit_s`."""

    __slots__ = ("_calls", "_limit_s", "_match")

    def __init__(self, calls: GameCalls, match: Match, limit_s: float) -> None:
        self._calls = calls
        self._match = match
        self._limit_s = limit_s

    def __enter__(self) -> None:
        self._calls._now = self._match, time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now, self._calls._now = self._calls._now, None
        if isinstance(error, Exception):
            raise self.crash(f"crashed: {type(error).__name__}: {error}") from error
        if now is not None and time.monotonic() - now[1] > self._limit_s:
            raise self.crash(f"took more than {self._limit_s} s for a call (rollout.move_timeout_s)")

    def crash(self, what: str) -> GameCrashed:
        """The error that says what happened, naming the match's game and seed."""
        return GameCrashed(f"{self._match.game} (seed {self._match.seed}) {what}")
