"""Weights & Biases: the rows of metrics.jsonl, and transcripts as tables. The only module that imports wandb."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from spiral.config import Config
from spiral.monitor.sinks import Sink
from spiral.types import Episode

COLUMNS = ["match", "game", "players", "role", "observation", "text", "action", "legal", "return"]


class WandbSink(Sink):
    """One W&B run. Without an API key it is an offline run in the run directory, to be synced later."""

    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        mode: str = config.wandb.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self._is_offline = mode == "offline"
        self._num_transcripts = config.wandb.transcripts
        self._run: Any = wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity,
            name=config.run.name,
            id=state.get("run_id"),
            resume="allow",
            dir=config.run_dir,
            mode=mode,  # type: ignore[arg-type]
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Rows carry their own step: W&B's count of calls would differ after a resume.
        self._run.define_metric("*", step_metric="step")

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        self._run.log(dict(row))
        shown = transcripts[: self._num_transcripts]
        if shown:
            self._run.log({"transcripts": _table(shown), "step": int(row["step"])})

    def state_dict(self) -> dict[str, Any]:
        """The id under which a resumed run continues in W&B."""
        return {"run_id": self._run.id}

    def close(self, *, failed: bool) -> str | None:
        """Finish the run. Returns the command that uploads it if it is offline."""
        directory = self._run.dir.removesuffix("/files")
        self._run.finish(exit_code=int(failed))
        return f"W&B is offline; to upload: wandb sync {directory}" if self._is_offline else None


def _table(episodes: Sequence[Episode]) -> wandb.Table:
    """A table with one row per turn."""
    table = wandb.Table(columns=COLUMNS)
    for episode in episodes:
        match = episode.match
        for turn in episode.turns:
            table.add_data(
                match.id,
                match.game,
                " vs ".join(match.players),
                turn.role,
                turn.observation,
                turn.text,
                turn.action,
                turn.legal,
                episode.returns[turn.role],
            )
    return table
