"""Sinks: receivers of a run's metrics and episodes, as plug-ins (`monitor.sinks`).

metrics.jsonl, episodes/, evaluations/ and the console are always written; a sink is anything else, such as TensorBoard
(`spiral.monitor.tensorboard_sink`, the one to copy) or W&B.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from spiral.config import Config, UserError
from spiral.monitor.feed import Feed
from spiral.monitor.sink import Sink
from spiral.plugins import load_plugin

GROUP = "spiral.sinks"


class Sinks:
    """The configured sinks, each behind a thread of its own: no sink delays a step or ends the run.

    `states` is what `state_dict` returned for the checkpoint that the run continues from.
    """

    def __init__(self, config: Config, states: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._feeds = {
            name: Feed(name, partial(_construct, name, config), config.run_dir, states.get(name, {}), say)
            for name in enabled(config)
        }

    def wake(self) -> None:
        """There is a new row in metrics.jsonl."""
        for feed in self._feeds.values():
            feed.wake()

    def alarm(self, step: int, text: str) -> None:
        for feed in self._feeds.values():
            feed.alarm(step, text)

    def state_dict(self) -> dict[str, Any]:
        """By name, the rows that each sink has, and its state then."""
        return {name: feed.state_dict() for name, feed in self._feeds.items()}

    def close(self, *, failed: bool) -> None:
        """Close the sinks once they have all rows, or after monitor.close_timeout_s."""
        for feed in self._feeds.values():
            feed.begin_close(failed=failed)
        deadline_s = time.monotonic() + self._config.monitor.close_timeout_s
        for name, feed in self._feeds.items():
            if not feed.finish_close(deadline_s) and name == "wandb":
                self._say(f"to bring W&B up to date: spiral upload {self._config.run_dir}")


def check_sinks(config: Config) -> None:
    """Raise UserError if one of the configured sinks cannot be imported."""
    for name in enabled(config):
        _factory(name)


def enabled(config: Config) -> Sequence[str]:
    """The names of the configured sinks, without W&B where wandb.mode is disabled."""
    return [name for name in config.monitor.sinks if not (name == "wandb" and config.wandb.mode == "disabled")]


def _construct(name: str, config: Config, first_step: int, state: Mapping[str, Any]) -> Sink:
    sink = _factory(name)(config, first_step, state)
    if not isinstance(sink, Sink):
        raise TypeError(f"made a {type(sink).__name__}, expected a subclass of spiral.Sink")
    return sink


def _factory(name: str) -> Callable[..., Any]:
    try:
        return load_plugin(GROUP, name, "monitor.sinks")  # type: ignore[no-any-return]
    except ValueError as error:
        raise UserError(str(error)) from error
