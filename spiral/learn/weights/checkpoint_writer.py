"""Writing checkpoints in the background, while the learner trains on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from spiral.config import Config, dump
from spiral.learn.weights import checkpoint
from spiral.learn.weights.publish import full_disk_is_oserror


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread, one at a time.

    An exception in the thread (a full disk) is raised by the next `begin`, `finish` or `raise_failure`.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def begin(self, run_dir: Path, state: dict[str, Any], write_learner: Callable[[Path], None]) -> None:
        """Start to write the checkpoint of `state["step"]`, once the previous one is finished.

        `write_learner` is called in the thread with the directory to fill, so it must not touch what training changes.
        """

        def write(directory: Path) -> None:
            with full_disk_is_oserror(directory):
                write_learner(directory)

        self.finish()
        keep = self._config.checkpoint
        self._writing = self._thread.submit(
            checkpoint.save,
            run_dir,
            state,
            dump(self._config),
            write,
            keep_last=keep.keep_last,
            keep_every=keep.keep_every,
        )

    def finish(self) -> None:
        """Wait until the checkpoint that is being written, if any, is complete."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def raise_failure(self) -> None:
        """Raise the exception of a checkpoint that could not be written; do not wait for one that is being written."""
        if self._writing is not None and self._writing.done():
            self.finish()
