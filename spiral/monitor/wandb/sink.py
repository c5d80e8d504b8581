"""The sink `wandb`."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import wandb

from spiral.config import Config
from spiral.errors import summary
from spiral.monitor.sink import Sink
from spiral.monitor.wandb.client import silence
from spiral.monitor.wandb.identity import Identity
from spiral.monitor.wandb.writer import RunWriter
from spiral.types import Episode


class WandbSink(Sink):
    """The W&B run of a run directory, from the first row that W&B lacks. Without an API key it is offline."""

    def __init__(self, config: Config, first_step: int, state: Mapping[str, Any]) -> None:
        silence()
        mode = _mode(config)
        self._run_dir = config.run_dir
        self._is_offline = mode == "offline"
        self._writer = RunWriter(config, config.run_dir, mode, is_live=True)
        self.next_step = self._writer.next_step
        if mode == "online" and config.wandb.workspace:
            self._create_workspace(config)

    def _create_workspace(self, config: Config) -> None:
        try:
            from spiral.monitor.wandb.workspace import create_if_missing

            Identity(config.run_dir).workspace = create_if_missing(config, self._writer.entity)
        except Exception as error:  # noqa: BLE001 -- a convenience, which `spiral workspace` offers as well
            hint = f"later: spiral workspace {config.run_dir}"
            print(f"warning: no W&B workspace was created ({summary(error)}); {hint}", file=sys.stderr)

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        self._writer.row(row, transcripts)

    def alarm(self, step: int, text: str) -> None:
        self._writer.alert(text)

    def close(self, *, failed: bool) -> str | None:
        self._writer.close(exit_code=int(failed))
        return f"W&B is offline; to upload: spiral upload {self._run_dir}" if self._is_offline else None


def _mode(config: Config) -> Literal["online", "offline"]:
    mode = config.wandb.mode
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")  # type: ignore[assignment]
    return "offline" if mode == "offline" else "online"
