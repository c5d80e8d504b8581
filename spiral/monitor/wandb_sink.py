"""Weights & Biases: the same rows as metrics.jsonl, and transcripts as tables. The only file that imports wandb."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from spiral.config import Config
from spiral.types import Episode


class WandbSink:
    """One W&B run. Without an API key it is an offline run in the run directory, to be synced later."""

    def __init__(self, config: Config, run_id: str | None) -> None:
        mode: str = config.wandb.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self.is_offline = mode == "offline"
        self._run: Any = wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity,
            name=config.run.name,
            id=run_id,
            resume="allow",
            dir=config.run_dir,
            mode=mode,  # type: ignore[arg-type]
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Rows carry their own step: W&B's count of calls would differ after a resume.
        self._run.define_metric("*", step_metric="step")
        self.run_id: str = self._run.id

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row))

    def log_transcripts(self, step: int, episodes: Sequence[Episode]) -> None:
        """A table with one row per turn."""
        table = wandb.Table(
            columns=["match", "game", "players", "role", "observation", "text", "action", "legal", "return"]
        )
        for episode in episodes:
            for turn in episode.turns:
                players = " vs ".join(episode.match.players)
                table.add_data(
                    episode.match.id,
                    episode.match.game,
                    players,
                    turn.role,
                    turn.observation,
                    turn.text,
                    turn.action,
                    turn.legal,
                    episode.returns[turn.role],
                )
        self._run.log({"transcripts": table, "step": step})

    def finish(self, *, failed: bool) -> str | None:
        """Close the run. Returns the command that uploads it if it is offline."""
        directory = self._run.dir.removesuffix("/files")
        self._run.finish(exit_code=int(failed))
        return f"wandb sync {directory}" if self.is_offline else None
