"""Sinks: receivers of a run's metrics and episodes, as plug-ins (`monitor.sinks`).

metrics.jsonl, episodes/ and the console are always written; a sink is anything else, such as W&B
(`spiral.monitor.wandb_sink`, the one to copy).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spiral.config import Config, UserError
from spiral.plugins import load_plugin
from spiral.types import Episode

GROUP = "spiral.sinks"


class Sink:
    """Base class of sinks. Override what is needed; every method here does nothing.

    Constructed with the config, the step that the run continues from (0 for a new run), and what `state_dict` returned
    for the checkpoint that it continues from ({} for a new run). Rows and episodes of later steps come again then.
    """

    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        pass

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        """The metrics of a step, with flat keys (`step` among them), and a few episodes of its evaluation."""

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        """The episodes that a step trained on, in match-id order."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON-serialisable data; stored in every checkpoint."""
        return {}

    def close(self, *, failed: bool) -> str | None:
        """The run ended, `failed` or not. Returns a line for the console, or None."""
        return None


class Sinks:
    """The configured sinks. A sink that raises is reported once and called again; it never ends the run."""

    def __init__(
        self, config: Config, first_step: int, states: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]
    ) -> None:
        self._say = say
        self._reported: set[str] = set()
        self._sinks: dict[str, Sink] = {}
        for name in _enabled(config):
            self._sinks[name] = _construct(name, config, first_step, states.get(name, {}))

    @property
    def want_episodes(self) -> bool:
        """Whether a sink does something with the episodes of a step, which then have to be read back from disk."""
        return any(type(sink).episodes is not Sink.episodes for sink in self._sinks.values())

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        self._call_all("row", row, transcripts)

    def episodes(self, step: int, episodes: Sequence[Episode]) -> None:
        self._call_all("episodes", step, episodes)

    def state_dict(self) -> dict[str, Any]:
        """The state of each sink, by name."""
        return {name: state for name, state in self._call_all("state_dict").items() if state}

    def close(self, *, failed: bool) -> None:
        for line in self._call_all("close", failed=failed).values():
            if line:
                self._say(line)

    def _call_all(self, method: str, *args: object, **keywords: object) -> dict[str, Any]:
        results = {}
        for name, sink in self._sinks.items():
            try:
                results[name] = getattr(sink, method)(*args, **keywords)
            except Exception as error:  # noqa: BLE001 -- training does not depend on whoever watches it
                if name not in self._reported:
                    self._reported.add(name)
                    self._say(f"warning: monitor.sinks {name!r}: {method}() failed: {type(error).__name__}: {error}")
        return results


def check_sinks(config: Config) -> None:
    """Raise UserError if one of the configured sinks cannot be imported."""
    for name in _enabled(config):
        _factory(name)


def _enabled(config: Config) -> list[str]:
    """The names of the configured sinks, without W&B where wandb.mode is disabled."""
    return [name for name in config.monitor.sinks if not (name == "wandb" and config.wandb.mode == "disabled")]


def _construct(name: str, config: Config, first_step: int, state: Mapping[str, Any]) -> Sink:
    factory = _factory(name)
    try:
        sink = factory(config, first_step, state)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"monitor.sinks {name!r} cannot start: {type(error).__name__}: {error}") from error
    if not isinstance(sink, Sink):
        raise UserError(f"monitor.sinks {name!r} made a {type(sink).__name__}, expected a subclass of spiral.Sink")
    return sink


def _factory(name: str) -> Callable[..., Any]:
    try:
        return load_plugin(GROUP, name, "monitor.sinks")  # type: ignore[no-any-return]
    except ValueError as error:
        raise UserError(str(error)) from error
