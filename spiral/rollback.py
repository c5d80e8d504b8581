"""Going back to an earlier checkpoint of a run: which one, and what becomes of the later ones."""

from collections.abc import Callable, Iterable
from pathlib import Path

from spiral.learn.weights import checkpoint
from spiral.monitor.best import best_step
from spiral.monitor.files import Row
from spiral.monitor.watchdog import WatchdogLog
from spiral.storage.run_lock import locked

MARGIN = 5
"""Steps by which a level lags behind what is wrong: a collapse takes some, and so do means over rows."""


def rollback_step(run_dir: Path, rows: Iterable[Row], began: int) -> int:
    """The step to go back to when a signature has left its level 0 in step `began`; 0 is the beginning of the run.

    Of the checkpoints from MARGIN steps before `began` it is the one with the best evaluation or, if none was
    evaluated, the newest; if all are later, the oldest has the least of the collapse. A run that has got no further
    than before its last rollback goes further back than that time, at last to the beginning.
    """
    steps = [checkpoint.step_of(directory) for directory in checkpoint.list_checkpoints(run_dir)]
    *_, last = [None, *(entry for entry in WatchdogLog(run_dir).read() if entry.action == "rollback")]
    if last is not None and began <= last.step + MARGIN:
        candidates = [step for step in steps if step < (last.to or 0)]
    else:
        candidates = [step for step in steps if step <= began - MARGIN] or steps[:1]
    best = best_step(rows, candidates)
    return max(candidates, default=0) if best is None else best


def newest_checkpoint(run_dir: Path, warn: Callable[[str], None] = lambda _: None) -> Path | None:
    """The newest undamaged checkpoint, or None, once those that the last rollback has given up are removed.

    A checkpoint from after that rollback knows of it from its schedule. Raises UserError if the run is going on.
    """
    with locked(run_dir):
        rollbacks = [entry for entry in WatchdogLog(run_dir).read() if entry.action == "rollback"]
        for directory in reversed(checkpoint.list_checkpoints(run_dir)) if rollbacks else ():
            reseeds = checkpoint.read_state(directory)["schedule"].get("reseeds", [])
            known = max((number for _, number in reseeds), default=0)
            if checkpoint.step_of(directory) > (rollbacks[-1].to or 0) and known < len(rollbacks):
                checkpoint.remove(directory)
        return checkpoint.newest_sound(run_dir, warn)
