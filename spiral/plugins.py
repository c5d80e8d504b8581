"""Plug-ins: objects found by a registered name (an entry point) or by `module:attribute`.

Every plug-in point of the framework has an entry-point group. The built-in implementations are registered in the same
groups, so a user's own has the same standing:

    spiral.games        game id         -> class constructed with a seed           (spiral.game)
    spiral.players      player label    -> factory of scripted players             (spiral.game.scripted)
    spiral.losses       learner.loss    -> function of LossInputs                  (spiral.learn.loss)
    spiral.advantages   learner.advantage -> factory of advantage estimators       (spiral.learn.advantage)
    spiral.prompts      rollout.prompt  -> function from PromptInput to messages   (spiral.rollout.prompt)
    spiral.sinks        monitor.sinks   -> factory of metric and episode sinks     (spiral.monitor.sinks)
"""

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from spiral.errors import summary


@cache
def registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name."""
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def load_plugin(group: str, name: str, what: str) -> Any:
    """The object registered as `name` in `group`, or found at `module:attribute`.

    Raises ValueError, in one line that names `what`, if there is no such plug-in or it cannot be imported.
    """
    try:
        if name in registered(group):
            return registered(group)[name].load()
        if ":" in name:
            module, _, attribute = name.partition(":")
            return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the plug-in's own module raises while it is imported
        raise ValueError(f"{what} {name!r} cannot be imported: {summary(error)}") from error
    raise ValueError(f"unknown {what} {name!r}; {did_you_mean(name, registered(group))} Another form: module:attribute")


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """`did you mean 'x'?` for the nearest of `known`; if none is near, `otherwise`, by default the list of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return otherwise or f"known: {', '.join(known) or 'none'}."
