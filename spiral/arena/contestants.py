"""Who takes part in an arena: scripts, models and endpoints, from what a user writes on the command line."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml

from spiral.config import UserError
from spiral.game import make, scripted
from spiral.learn.weights import checkpoint

_NAMED = re.compile(r"(?P<name>[\w.:@+-]+)=(?P<label>.+)")
_ENDPOINT = re.compile(r"(?P<model>.+)@(?P<url>https?://.+)")
_VERSION = re.compile(r"(?P<run>.+)@(?P<step>\d+)")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A player of an arena. `label` says what it is, `name` is what it is called in tables."""

    name: str
    label: str

    @classmethod
    def parse(cls, text: str) -> "Contestant":
        """A player as a user writes it: PLAYER or NAME=PLAYER.

        PLAYER is a script (random, perfect, mcts:100), a model (a directory, hub id or built-in model; RUN_DIR@STEP is
        the checkpoint of a step), or MODEL@URL, a model behind an OpenAI-compatible endpoint.
        """
        named = _NAMED.fullmatch(text)
        if named:
            return cls(named["name"], named["label"])
        endpoint = _ENDPOINT.fullmatch(text)
        return cls(endpoint["model"] if endpoint else text, text)

    @property
    def kind(self) -> Literal["script", "model", "endpoint"]:
        """What it takes to play it."""
        if _ENDPOINT.fullmatch(self.label):
            return "endpoint"
        return "script" if scripted.is_script(self.label) else "model"

    @property
    def endpoint(self) -> tuple[str, str]:
        """(model, URL) of an endpoint."""
        found = _ENDPOINT.fullmatch(self.label)
        assert found is not None
        return found["model"], found["url"]

    @property
    def model(self) -> str:
        """What `spiral.models.open_model` opens. Raises UserError for a step without a checkpoint."""
        version = _VERSION.fullmatch(self.label)
        if version is None or Path(self.label).exists():
            return self.label
        run, step = Path(version["run"]), int(version["step"])
        found = {checkpoint.step_of(path): path for path in checkpoint.list_checkpoints(run)}
        if step not in found:
            has = ", ".join(map(str, found)) or "none"
            raise UserError(f"player {self.label}: {run} has no checkpoint of step {step}; it has: {has}")
        return str(found[step])


def contestants(texts: Sequence[str]) -> list[Contestant]:
    """The players that a user names. Raises UserError for two of one name."""
    parsed = [Contestant.parse(text) for text in texts]
    names = [contestant.name for contestant in parsed]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two players are called {name}: name one of them, NAME=PLAYER")
    return parsed


def reference_pool(game: str) -> list[Contestant]:
    """The frozen reference players of a game: see reference_pools.yaml."""
    pools = yaml.safe_load((files("spiral.arena") / "reference_pools.yaml").read_text("utf-8"))
    default = ["random"] if make(game, 0).legal_actions() is not None else []
    return [Contestant(label, label) for label in pools.get(game, default)]


def require_playable(game: str, players: Iterable[Contestant]) -> None:
    """Raise UserError unless there is such a game, and every scripted player can play it."""
    try:
        match = make(game, 0)
        for player in players:
            if player.kind == "script":
                scripted.require_playable(player.label, game, match)
    except ValueError as error:
        raise UserError(str(error)) from error
