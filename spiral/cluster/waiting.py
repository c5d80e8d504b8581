"""Waiting for actors. Every wait has a time limit, and an actor that fails is named together with its log."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from spiral.config import RunFailed, UserError

Call = tuple[str, Any]
"""(name of the actor, reference to the result of a method call)."""

TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Waiter:
    """Waits for the results of actors, whose logs are in `logs`."""

    logs: Path

    def get_all(self, calls: Sequence[Call], limit_s: float, action: str) -> list[Any]:
        """The results, in order. The first failure is raised at once: the other actors may be waiting for that one."""
        deadline = time.monotonic() + limit_s
        names = {reference: name for name, reference in calls}
        waiting = list(names)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self.late(names[waiting[0]], limit_s, action)
            for reference in ready:
                self.get(names[reference], reference, limit_s, action)
        return [ray.get(reference) for _, reference in calls]

    def get(self, name: str, reference: Any, limit_s: float, action: str) -> Any:
        """The result of one actor.

        Raises RunFailed, with name and log, for an actor that died, failed or is late; an error that actors raise on
        purpose is raised as it is.
        """
        log = self.log(name)
        try:
            return ray.get(reference, timeout=limit_s)
        except GetTimeoutError as error:
            raise self.late(name, limit_s, action) from error
        except RayActorError as error:
            raise RunFailed(f"{name} died; its log: {log}\n{_tail(log)}") from error
        except RayTaskError as error:
            if isinstance(error.cause, UserError | RunFailed | OSError | FloatingPointError):
                raise error.cause from None
            raise RunFailed(f"{name} failed to {action}:\n{error}\nits log: {log}") from error

    def log(self, name: str) -> Path:
        """The file that holds what an actor prints."""
        return self.logs / f"{name}.log"

    def late(self, name: str, limit_s: float, action: str) -> RunFailed:
        """The error for an actor that exceeded a time limit."""
        return RunFailed(f"{name} did not {action} within {limit_s:.0f} s; its log: {self.log(name)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:]) if log.exists() else ""
