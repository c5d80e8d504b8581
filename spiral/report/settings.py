"""The settings of the runs: what differs between them, and what differs from the defaults."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spiral.config import Config, describe
from spiral.report.source import Source

ABSENT = "-"  # where a setting has no default, and where only the other runs have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A key of the config, its value in each run, its default, and its description."""

    key: str
    values: tuple[str, ...]
    default: str
    description: str


def differing(runs: Sequence[Source]) -> list[Setting]:
    """The settings in which the runs differ."""
    return [setting for setting in _settings(runs) if len(set(setting.values)) > 1]


def chosen(runs: Sequence[Source]) -> list[Setting]:
    """The settings that all runs share, and that are not the default."""
    return [one for one in _settings(runs) if len(set(one.values)) == 1 and one.values[0] != one.default]


def _settings(runs: Sequence[Source]) -> list[Setting]:
    trees = [_flat(run.config.model_dump(mode="json")) for run in runs]
    descriptions = {key: text for key, _, text in describe()}
    defaults = _defaults()
    return [
        Setting(
            key=key,
            values=tuple(tree.get(key, ABSENT) for tree in trees),
            default=defaults.get(key, ABSENT),
            description=descriptions.get(key, ""),
        )
        for key in dict.fromkeys(key for tree in trees for key in tree)
    ]


def _defaults() -> dict[str, str]:
    """The defaults; keys that have none are left out."""
    needed = {"steps": 1, "model": {"name": "none"}, "games": [{"id": "none"}]}
    tree = _flat(Config.model_validate(needed).model_dump(mode="json"))
    return {key: value for key, value in tree.items() if key not in ("steps", "model.name", "games")}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys and the values as text."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
