"""A model to evaluate or to play against, with the settings it is played with."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiral.config import Config, UserError, load_config
from spiral.learn.weights import checkpoint
from spiral.learn.weights.export import ADAPTER_CONFIG
from spiral.machine import num_gpus
from spiral.models.resolver import resolve

CONFIG = checkpoint.CONFIG  # in checkpoints and exports: the config of the run that trained the model


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayableModel:
    """The settings of an engine, the directory it loads, and the LoRA adapter on top, if there is one."""

    name: str
    config: Config
    model_dir: Path
    adapter_dir: Path | None

    @property
    def base(self) -> str | None:
        """The name of the model that the run began with; None if no run has trained this one."""
        return None if self.config.model.name == self.name else self.config.model.name


def open_model(
    name: str,
    games: Sequence[str] = (),
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
    *,
    games_if_untrained: Sequence[str] = (),
) -> PlayableModel:
    """Open a run directory, checkpoint, export or other Hugging Face directory, hub id or built-in model.

    A model that a run trained is played with that run's prompt, answer format and sampling settings, any other with the
    defaults and answers in brackets. `games` default to those of the run, and for a model that no run trained to
    `games_if_untrained`. `overrides` are `key.path=value`. Raises
    UserError if there is no such model.
    """
    directory = _trained(Path(name))
    if directory is None:
        return _untrained(name, games or games_if_untrained, overrides, say)
    trained = load_config(directory / CONFIG)
    has_adapter = (directory / ADAPTER_CONFIG).exists()
    tree = trained.model_dump(mode="json")
    tree["generators"] |= _one_engine(trained)
    del tree["league"]  # of its training: other models beside it
    if games:
        tree["games"] = [{"id": game} for game in games]
    if not has_adapter:
        tree["learner"]["lora_rank"] = 0  # an export that was merged
    return PlayableModel(
        name=name,
        config=load_config(tree, overrides),
        model_dir=resolve(trained, say) if has_adapter else directory,
        adapter_dir=directory if has_adapter else None,
    )


def _trained(path: Path) -> Path | None:
    """The directory that holds the model of a run, checkpoint or export; None if `path` is none of these."""
    if not (path / CONFIG).exists():
        return None
    if (path / "config.json").exists() or (path / ADAPTER_CONFIG).exists():
        return path
    newest = checkpoint.newest_sound(path)
    if newest is None:
        raise UserError(f"{path} has no checkpoint yet; `spiral resume {path}` continues the run")
    return newest


def _untrained(name: str, games: Sequence[str], overrides: Sequence[str], say: Callable[[str], None]) -> PlayableModel:
    if not games:
        raise UserError(f"model {name}: name the games to play; only a run's own model has games of its own")
    tree: dict[str, Any] = {
        "steps": 1,
        "model": {"name": name},
        "games": [{"id": game} for game in games],
        "rollout": {"answer_format": "bracket", "max_tokens": 64},
    }
    model_dir = resolve(load_config(tree, overrides), say)
    tree["generators"] = _one_engine(load_config(tree)) | {"max_model_len": min(4096, _context(model_dir))}
    return PlayableModel(name=name, config=load_config(tree, overrides), model_dir=model_dir, adapter_dir=None)


def _one_engine(config: Config) -> dict[str, int]:
    """One engine, on no more GPUs than this machine has: the cluster of the training run is not at hand."""
    gpus = config.generators.gpus
    return {"count": 1, "gpus": gpus if os.environ.get("RAY_ADDRESS") else min(gpus, num_gpus())}


def _context(model_dir: Path) -> int:
    """The longest context that the model supports, in tokens."""
    described = json.loads((model_dir / "config.json").read_text())
    return int(described.get("max_position_embeddings") or 4096)
