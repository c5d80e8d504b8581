"""Writes a run directory to its W&B run."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb

from spiral.config import Config
from spiral.monitor.transcript import match_html
from spiral.monitor.wandb.artifacts import Artifacts
from spiral.monitor.wandb.identity import Identity, sole_writer
from spiral.monitor.wandb.panels import MATCHES, TRANSCRIPTS
from spiral.types import Episode

INIT_TIMEOUT_S = 60.0
NUM_PAGES = 4
"""Matches of an evaluation that are shown as pages, with boards and cards, beside the table of all transcripts."""
COLUMNS = ["match", "game", "players", "role", "observation", "text", "action", "legal", "return", "end"]


class RunWriter:
    """The W&B run of a run directory, open for rows from `next_step` on.

    W&B's own step is the `step` of a row. Online, the server says which row comes next; what it has stays as it is.
    Offline, the files that W&B writes on disk get every row, whatever earlier ones hold.
    """

    def __init__(self, config: Config, run_dir: Path, mode: Literal["online", "offline"], *, is_live: bool) -> None:
        """`is_live`: this process is the run itself, so this machine's load and packages are of interest.

        Raises UserError if another process has the W&B run open, and wandb's own errors.
        """
        self._num_transcripts = config.wandb.transcripts
        with contextlib.ExitStack() as stack:
            stack.enter_context(sole_writer(run_dir))
            self._run: Any = wandb.init(
                project=config.wandb.project,
                entity=config.wandb.entity,
                name=config.run.name,
                group=config.wandb.group,
                job_type=config.wandb.job_type,
                tags=list(config.wandb.tags),
                notes=config.wandb.notes,
                id=Identity(run_dir).run_id,
                resume="allow",
                dir=run_dir,
                mode=mode,
                config=config.model_dump(mode="json"),
                settings=_settings(config, is_live=is_live),
            )
            self._stack = stack.pop_all()
        self.next_step: int = self._run.starting_step if mode == "online" else 0
        self._artifacts = Artifacts(self._run, config, run_dir) if mode == "online" else None
        if mode == "online":
            self._send_media_again(run_dir)

    @property
    def url(self) -> str:
        return str(self._run.url)

    @property
    def entity(self) -> str:
        return str(self._run.entity)

    def row(self, row: Mapping[str, float], transcripts: Sequence[Episode]) -> None:
        """Log a row and what was played in its evaluation, in one call: W&B then counts one step."""
        logged: dict[str, Any] = dict(row)
        if shown := transcripts[: self._num_transcripts]:
            logged[TRANSCRIPTS] = _table(shown)
            pages = [match_html(episode, int(row["step"])) for episode in shown[:NUM_PAGES]]
            logged[MATCHES] = [wandb.Html(page, inject=False) for page in pages]
        self._run.log(logged, step=int(row["step"]), commit=True)
        if self._artifacts:
            self._artifacts.log_checkpoints()

    def alert(self, text: str) -> None:
        """Send an alert to whoever watches the W&B run."""
        self._run.alert(title=f"{self._run.name}: alarm", text=text, level="WARN")

    def close(self, exit_code: int = 0) -> None:
        """Send what is left, and wait for it."""
        with self._stack:
            if self._artifacts:
                self._artifacts.log_checkpoints()
            self._run.finish(exit_code=exit_code)

    def _send_media_again(self, run_dir: Path) -> None:
        """Send the media files of earlier online sessions: when one was killed, W&B had its rows, and not yet these."""
        for files in run_dir.glob(f"wandb/run-*-{self._run.id}/files"):
            for path in (files / "media").rglob("*.*"):
                self._run.save(str(path), base_path=str(files), policy="now", glob=False)


def _settings(config: Config, *, is_live: bool) -> wandb.Settings:
    settings: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "init_timeout": INIT_TIMEOUT_S,
        "x_disable_meta": not is_live,
        "x_disable_stats": not is_live,
        "x_disable_machine_info": not is_live,
        "x_save_requirements": is_live,
        "disable_git": not is_live,
    }
    if is_live:
        settings["finish_timeout"] = config.monitor.close_timeout_s
    return wandb.Settings(**settings)


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
                episode.end_reason,
            )
    return table
