"""`spiral upload`: bring the W&B run of a run directory to what its files say."""

from dataclasses import dataclass
from pathlib import Path

import wandb

from spiral.config import UserError, load_config
from spiral.monitor.feed import read_if_there
from spiral.monitor.files import EVALUATIONS, MetricsFile
from spiral.monitor.wandb.client import silence
from spiral.monitor.wandb.identity import Identity
from spiral.monitor.wandb.writer import RunWriter
from spiral.storage.episode_files import EpisodeFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """What an upload did: the number of rows it added, and the URL of the W&B run."""

    num_rows: int
    url: str


def upload(run_dir: Path, *, as_new: bool = False) -> Uploaded:
    """Add to the W&B run what it lacks: rows, transcripts, artifacts. A second upload adds nothing.

    `as_new` leaves the W&B run as it is and makes another one. Raises UserError.
    """
    if not (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir} is not a run directory: it holds no config.yaml")
    config = load_config(run_dir / "config.yaml")
    silence()
    if as_new:
        Identity(run_dir).forget_run()
    evaluations = EpisodeFiles(run_dir, EVALUATIONS)
    try:
        writer = RunWriter(config, run_dir, "online", is_live=False)
        rows = [row for row in MetricsFile(run_dir).read() if row["step"] >= writer.next_step]
        for row in rows:
            writer.row(row, read_if_there(evaluations, int(row["step"])))
        writer.close()
    except wandb.Error as error:
        raise UserError(f"W&B: {' '.join(str(error).split())}") from error
    return Uploaded(num_rows=len(rows), url=writer.url)
