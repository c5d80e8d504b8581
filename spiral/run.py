"""A run directory, opened for reading."""

from pathlib import Path

from spiral.config import Config, UserError, load_config
from spiral.learn.weights import checkpoint
from spiral.monitor.files import MetricsFile
from spiral.monitor.plot import plot
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode


class Run:
    """What a training run left in its directory, while it goes on or afterwards.

    `config` is the resolved Config.
    """

    def __init__(self, directory: Path, config: Config) -> None:
        self.directory = directory
        self.config = config

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """Open a run directory, such as `runs/quickstart`. Raises UserError if it is not one."""
        directory = Path(directory)
        if not (directory / "config.yaml").exists():
            raise UserError(f"{directory} is not a run directory: it holds no config.yaml")
        return cls(directory, load_config(directory / "config.yaml"))

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.jsonl, oldest first: one flat dict per step, such as `row["train/loss"]`."""
        return MetricsFile(self.directory).read()

    @property
    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        return checkpoint.list_checkpoints(self.directory)

    @property
    def model_dir(self) -> Path:
        """The newest undamaged checkpoint: a Hugging Face model directory, or a LoRA adapter in peft's files.

        Raises UserError if there is none yet.
        """
        newest = checkpoint.newest_sound(self.directory)
        if newest is None:
            raise UserError(f"{self.directory} has no checkpoint yet")
        return newest

    def episodes(self, step: int | None = None) -> list[Episode]:
        """The episodes that `step` (default: the newest) trained on, in match-id order.

        Raises UserError if there are none, or if their file is damaged.
        """
        files = EpisodeFiles(self.directory)
        return files.read(files.choose(step))

    def plot(self, path: str | Path) -> Path | None:
        """Draw NashConv and scores over steps into a PNG. Returns its path, or None if nothing was evaluated."""
        return plot({self.config.run.name: self.metrics}, Path(path))

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"
