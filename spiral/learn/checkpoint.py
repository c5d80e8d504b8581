"""Checkpoints: a directory written aside and renamed, so that it is whole or absent.

`step_000100/` holds the model as a Hugging Face checkpoint (`from_pretrained` and `vllm serve` take it), or the LoRA
adapter as one of peft's, the learner's state, the config, `files.json` (size and SHA-256 of each file, to tell a
damaged one), and `state.json`: step, policy version, schedule, W&B run id. That file is written last: a directory
without it is not a checkpoint.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATE = "state.json"
FILES = "files.json"
LEARNER = "learner.pt"
REFERENCE = "reference"
ADAPTER_CONFIG = "adapter_config.json"  # peft's: a checkpoint with it is a LoRA adapter
OWN = (LEARNER, REFERENCE, "config.yaml", FILES, STATE)  # what a Hugging Face directory has no use for


def save(
    run_dir: Path,
    state: dict[str, Any],
    config: str,
    write_learner: Callable[[Path], None],
    *,
    keep_last: int,
    keep_every: int = 0,
) -> Path:
    """Write the checkpoint of `state["step"]`.

    Older ones are removed, but for the newest `keep_last` and those of every `keep_every` steps.

    A failure (a full disk) leaves the earlier checkpoints as they are, and nothing half-written.
    """
    directory = run_dir / "checkpoints" / f"step_{state['step']:06d}"
    aside = directory.with_suffix(".tmp")
    for left_behind in (*directory.parent.glob("step_??????.tmp"), aside):  # by a killed process
        shutil.rmtree(left_behind, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write_learner(aside)
        (aside / "config.yaml").write_text(config)
        files = {str(path.relative_to(aside)): _fingerprint(path) for path in aside.rglob("*") if path.is_file()}
        (aside / FILES).write_text(json.dumps(files, indent=1))
        (aside / STATE).write_text(json.dumps(state, indent=1))
        _sync(aside)
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)
        _sync_one(directory.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in list_checkpoints(run_dir)[:-keep_last]:
        if not (keep_every and _step(old) % keep_every == 0):
            shutil.rmtree(old)
    return directory


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(path.parent for path in (run_dir / "checkpoints").glob(f"step_??????/{STATE}"))


def read_state(directory: Path) -> dict[str, Any]:
    """What `save` was given as `state`."""
    return json.loads((directory / STATE).read_text())  # type: ignore[no-any-return]


def newest_sound(run_dir: Path, warn: Callable[[str], None] = lambda _: None) -> Path | None:
    """The newest checkpoint that is as it was written; `warn` hears of each newer one that is damaged."""
    for directory in reversed(list_checkpoints(run_dir)):
        what = damage(directory)
        if what is None:
            return directory
        warn(f"checkpoint {directory} is damaged ({what}): falling back to the one before")
    return None


def damage(directory: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None."""
    try:
        files = json.loads((directory / FILES).read_text())
        read_state(directory)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    for name, written in files.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        found = _fingerprint(path)
        if found["bytes"] != written["bytes"]:
            return f"{name} has {found['bytes']} bytes, expected {written['bytes']}"
        if found != written:
            return f"{name} has other contents than were written"
    return None


def export(run_dir: Path, target: Path, step: int | None = None, *, merged: bool = False) -> Path:
    """Copy the model of a checkpoint (default: the newest) into `target`, a plain Hugging Face directory.

    Of a LoRA run that is the adapter; `merged`, the model with the adapter in its weights. Returns the checkpoint.
    Raises ValueError if there is none, if it is damaged, if there is nothing to merge, or if `target` exists.
    """
    found = [path for path in list_checkpoints(run_dir) if step in (None, _step(path))]
    if not found:
        have = ", ".join(str(_step(path)) for path in list_checkpoints(run_dir)) or "none"
        raise ValueError(f"{run_dir} has no checkpoint{'' if step is None else f' of step {step}'}; it has: {have}")
    if (what := damage(found[-1])) is not None:
        raise ValueError(f"checkpoint {found[-1]} is damaged: {what}")
    if target.exists():
        raise ValueError(f"{target} exists; choose another directory")
    if merged and not (found[-1] / ADAPTER_CONFIG).exists():
        raise ValueError(f"{run_dir} trained whole weights, not LoRA adapters: there is nothing to merge")
    aside = target.with_name(target.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(found[-1], aside, ignore=lambda folder, names: [n for n in names if n in OWN])
    if merged:
        from spiral.learn.trainable import merge

        merge(aside).save_pretrained(aside)
        for adapter in aside.glob("adapter_*"):
            adapter.unlink()
    aside.rename(target)
    return found[-1]


def _step(directory: Path) -> int:
    return int(directory.name.removeprefix("step_"))


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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
