"""Processes for tests of ranks and of runs that are killed, forked from one in which everything is imported."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["spiral.learn.learner"])  # ten seconds, paid once


def start(target: Callable[..., object], *arguments: Any, **environment: str) -> BaseProcess:
    """Call `target` in a process with these environment variables; one whose value is "" is not set there."""
    process = _forks.Process(target=_run, args=(environment, target, arguments))
    process.start()
    return process


def end(process: BaseProcess, limit_s: float) -> int | None:
    """The exit code of a process, once it has ended. One that is late is killed."""
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"a process was not done after {limit_s} s")
    return process.exitcode


def _run(environment: dict[str, str], target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value
    target(*arguments)
