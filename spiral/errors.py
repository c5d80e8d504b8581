"""The errors that the framework raises on purpose."""


class UserError(ValueError):
    """An error the user can fix. The command line prints its message as one line and exits with code 2."""


class RunFailed(RuntimeError):
    """A run failed through no fault of the user; the message says where to look. Exit code 1: do not resume."""


class RunInterrupted(RunFailed):
    """A run ended because a process or a machine failed. Exit code 75: resume it from its last checkpoint."""


def summary(error: BaseException) -> str:
    """The type and the message of an exception, on one line of at most 500 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
