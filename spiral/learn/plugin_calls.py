"""Loading the learner's plug-ins, and reporting what goes wrong in them as one line that names the plug-in."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spiral.config import UserError
from spiral.errors import summary
from spiral.plugins import load_plugin


def load_callable(group: str, key: str, name: str) -> Callable[..., Any]:
    """The plug-in that config key `key` names: registered as `name` in entry-point group `group`, or module:attribute.

    Raises UserError if it does not exist, cannot be imported, or is not callable.
    """
    try:
        plugin = load_plugin(group, name, key)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not callable(plugin):
        raise UserError(f"{key} {name} is a {type(plugin).__name__}, expected a function or class")
    return plugin  # type: ignore[no-any-return]


@contextmanager
def errors_named(plugin: str) -> Iterator[None]:
    """Raise any exception of the block as a UserError of one line that begins with `plugin`.

    The traceback is written to stderr, which is the learner's log, because the plug-in's author needs it.
    """
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        raise UserError(f"{plugin}: {summary(error)}") from error
