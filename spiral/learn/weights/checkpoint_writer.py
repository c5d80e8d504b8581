"""Writing checkpoints in the background, while the learner trains on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from spiral.config import Config, dump
from spiral.learn.weights import checkpoint
from spiral.storage.atomic import full_disk_is_oserror
from spiral.storage.background import BackgroundWriter


class CheckpointWriter(BackgroundWriter):
    """Writes the checkpoints of a run in a thread."""

    def __init__(self, config: Config) -> None:
        super().__init__("checkpoint")
        self._config = config

    def save(self, run_dir: Path, state: dict[str, Any], write_learner: Callable[[Path], None]) -> None:
        """Start to write the checkpoint of `state["step"]`, once the previous one is written.

        `write_learner` is called in the thread with the directory to fill, so it must not touch what training changes.
        """

        def write(directory: Path) -> None:
            with full_disk_is_oserror(directory):
                write_learner(directory)

        keep = self._config.checkpoint
        self.begin(
            partial(
                checkpoint.save,
                run_dir,
                state,
                dump(self._config),
                write,
                keep_last=keep.keep_last,
                keep_every=keep.keep_every,
            )
        )
