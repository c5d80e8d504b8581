"""How a run ended, as its directory says: outcome.json, written when a run ends and removed when it goes on."""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from spiral.errors import RunInterrupted
from spiral.storage.atomic import atomic_file

Ending = Literal["finished", "interrupted", "failed"]


class Outcome(NamedTuple):
    """How a run ended, and the first line of the error that ended it, if one did."""

    ending: Ending
    reason: str = ""


class OutcomeFile:
    """outcome.json in a run directory. A process that is killed leaves none."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "outcome.json"

    def clear(self) -> None:
        """A run begins, or goes on."""
        self._path.unlink(missing_ok=True)

    def write(self, *, is_complete: bool, error: BaseException | None) -> None:
        """The run ends: with all its steps done (`is_complete`), by a signal, or with `error`."""
        ending: Ending = "finished" if is_complete else "interrupted"
        if error is not None:
            is_resumable = isinstance(error, RunInterrupted | KeyboardInterrupt | SystemExit)
            ending = "interrupted" if is_resumable else "failed"
        reason = (str(error).splitlines() or [type(error).__name__])[0] if error is not None else ""
        with atomic_file(self._path) as aside:
            aside.write_text(json.dumps(Outcome(ending, reason)._asdict()) + "\n")

    def read(self) -> Outcome | None:
        """None if the run goes on, was killed, or the file is damaged."""
        try:
            tree = json.loads(self._path.read_bytes())
            return Outcome(tree["ending"], str(tree["reason"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
