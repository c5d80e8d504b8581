"""Which W&B run, workspace and reports belong to a run directory."""

import contextlib
import fcntl
import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from spiral.config import UserError
from spiral.storage.atomic import atomic_file


class Identity:
    """wandb.json in a run directory: the id of its W&B run from the first start on, and URLs of views."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "wandb.json"

    @property
    def run_id(self) -> str:
        """The id of the W&B run, chosen when it is first asked for."""
        known = self._read().get("run_id")
        if known is None:
            known = secrets.token_hex(4)
            self._write(run_id=known)
        return known

    @property
    def workspace(self) -> str | None:
        """The URL of the workspace that was created or updated for this run."""
        return self._read().get("workspace")

    @workspace.setter
    def workspace(self, url: str) -> None:
        self._write(workspace=url)

    def report(self, run_ids: Sequence[str]) -> str | None:
        """The URL of the report that was saved about these W&B runs, of which this run's was the first."""
        return self._read().get(_report_key(run_ids))

    def set_report(self, run_ids: Sequence[str], url: str) -> None:
        self._write(**{_report_key(run_ids): url})

    def forget_run(self) -> None:
        """Choose another id the next time."""
        self._write(run_id=None)

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            known = None
        if not isinstance(known, dict):
            raise UserError(f"{self._path} is damaged; restore it, or remove it for a new W&B run")
        return known

    def _write(self, **changes: str | None) -> None:
        known = {name: value for name, value in {**self._read(), **changes}.items() if value is not None}
        with atomic_file(self._path) as aside:
            aside.write_text(json.dumps(known) + "\n")


def _report_key(run_ids: Sequence[str]) -> str:
    return " ".join(["report", *run_ids])


@contextlib.contextmanager
def sole_writer(run_dir: Path) -> Iterator[None]:
    """Keep a second process from writing to the same W&B run: the run itself and `spiral upload` are two."""
    with (run_dir / ".wandb.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is writing the W&B run of {run_dir}; try again when it is done"
            ) from error
        yield
