"""Checkpoints: a directory written aside and renamed, so that it is whole or absent.

`step_000100/` holds the model as a Hugging Face checkpoint (`from_pretrained` and `vllm serve` take it), the learner's
state, the config, and `state.json`: step, policy version, schedule, W&B run id. That file is written last: a directory
without it is not a checkpoint.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATE = "state.json"


def save(
    run_dir: Path, state: dict[str, Any], config: str, write_learner: Callable[[Path], None], keep_last: int
) -> Path:
    """Write the checkpoint of `state["step"]` and remove all but the newest `keep_last`.

    A failure (a full disk) leaves the earlier checkpoints as they are, and nothing half-written.
    """
    directory = run_dir / "checkpoints" / f"step_{state['step']:06d}"
    aside = directory.with_suffix(".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write_learner(aside)
        (aside / "config.yaml").write_text(config)
        (aside / STATE).write_text(json.dumps(state, indent=1))
        _sync(aside)
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)
        _sync_one(directory.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in list_checkpoints(run_dir)[:-keep_last]:
        shutil.rmtree(old)
    return directory


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(path.parent for path in (run_dir / "checkpoints").glob(f"step_??????/{STATE}"))


def read_state(directory: Path) -> dict[str, Any]:
    """What `save` was given as `state`."""
    return json.loads((directory / STATE).read_text())  # type: ignore[no-any-return]


def _sync(directory: Path) -> None:
    """Force the files to disk: a rename must never reach it before the contents do."""
    for path in [*directory.rglob("*"), directory]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
