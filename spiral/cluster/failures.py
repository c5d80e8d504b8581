"""What went wrong in an actor, as an exception that names the actor, its machine and its log."""

from errno import EDQUOT, EIO, ENOSPC, EROFS

from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from spiral.cluster.hosts import Host
from spiral.config import RunFailed, RunInterrupted, UserError
from spiral.errors import summary

DISK_ERRORS = (ENOSPC, EDQUOT, EROFS, EIO)
"""What a full or failing disk gives: the user's to fix, and nobody's bug."""


def explain(host: Host, error: BaseException, action: str) -> Exception:
    """The exception to raise for a call of `host` that ended with `error`.

    What actors raise on purpose (UserError, RunFailed, FloatingPointError, a full disk) is returned as it is. An actor
    that died is a RunInterrupted: a resumed run may do better. Anything else that an actor raises is a RunFailed.
    """
    where = f"{host.name} on {host.seat.node.hostname}"
    log = f"its log: {host.log}"
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, UserError | RunFailed | FloatingPointError):
            return cause
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            return cause
        return RunFailed(f"{where} failed to {action}: {summary(cause or error)}\n{log}\n{error}")
    if isinstance(error, RayActorError):
        return RunInterrupted(f"{where} died; {log}")
    if isinstance(error, ObjectLostError):
        return RunInterrupted(f"{where}: what it returned was lost with its machine; {log}")
    if isinstance(error, RayError):
        return RunInterrupted(f"{where} failed to {action}: {summary(error)}; {log}")
    return error if isinstance(error, Exception) else RunFailed(f"{where} failed to {action}: {summary(error)}")


def late(host: Host, limit_s: float, action: str) -> RunInterrupted:
    """The error for an actor that exceeded a time limit."""
    return RunInterrupted(
        f"{host.name} on {host.seat.node.hostname} did not {action} within {limit_s:.0f} s; its log: {host.log}"
    )
