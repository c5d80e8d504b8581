"""Checkpoints: directories from which a run can be resumed, each one complete or absent.

`step_000100/` holds the model as a Hugging Face checkpoint (`from_pretrained` and `vllm serve` take it) or the LoRA
adapter as a peft one, AdamW's moments in `optimizer/`, one file per rank, the learner's other state, the config,
`state.json` (step, policy version, schedule, state of the sinks) and `files.json` (size and SHA-256 of each other file,
to detect damage). Without `state.json` it is not a checkpoint. `reference/` holds the reference model if there is one.
With `learner.weight_ema` the model is the average of the weights, and `policy/` holds the weights under training.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spiral.storage.atomic import atomic_directory

STATE = "state.json"
FILES = "files.json"
CONFIG = "config.yaml"
LEARNER = "learner.pt"
POLICY = "policy"
AVERAGE = "average"
OPTIMIZER = "optimizer"
REFERENCE = "reference"


def save(
    run_dir: Path,
    state: dict[str, Any],
    config: str,
    write_learner: Callable[[Path], None],
    *,
    keep_last: int,
    keep_every: int = 0,
) -> Path:
    """Write the checkpoint of `state["step"]` and return its directory; `write_learner` fills a temporary one.

    Afterwards older checkpoints are removed, except the newest `keep_last` and those of every `keep_every` steps. An
    exception (a full disk) leaves the earlier checkpoints as they are and no partial one.
    """
    directory = _folder(run_dir) / f"step_{state['step']:06d}"
    _remove_leftovers(run_dir, but=rows_folder(run_dir, state["step"]))
    with atomic_directory(directory, if_exists="replace", durable=True) as temporary:
        write_learner(temporary)
        (temporary / CONFIG).write_text(config)
        (temporary / STATE).write_text(json.dumps(state, indent=1, allow_nan=False))
        written = sorted(path for path in temporary.rglob("*") if path.is_file())
        files = {str(path.relative_to(temporary)): _fingerprint(path) for path in written}
        (temporary / FILES).write_text(json.dumps(files, indent=1))
    for old in list_checkpoints(run_dir)[:-keep_last]:
        if not (keep_every and step_of(old) % keep_every == 0):
            shutil.rmtree(old)
    return directory


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path.parent for path in _folder(run_dir).glob(f"step_*/{STATE}")]
    return sorted((path for path in found if re.fullmatch(r"step_\d{6,}", path.name)), key=step_of)


def remove(directory: Path) -> None:
    """Remove a checkpoint."""
    (directory / STATE).unlink()  # no longer a checkpoint, so never a damaged one
    shutil.rmtree(directory)


def step_of(directory: Path) -> int:
    """The step of a checkpoint directory, from its name."""
    return int(directory.name.removeprefix("step_"))


def read_state(directory: Path) -> dict[str, Any]:
    """The `state` that `save` was called with."""
    return json.loads((directory / STATE).read_text())  # type: ignore[no-any-return]


def newest_sound(run_dir: Path, warn: Callable[[str], None] = lambda _: None) -> Path | None:
    """The newest undamaged checkpoint, or None; `warn` is called with a message for each newer, damaged one."""
    for directory in reversed(list_checkpoints(run_dir)):
        what = damage(directory)
        if what is None:
            return directory
        warn(f"checkpoint {directory} is damaged ({what}): falling back to the previous one")
    return None


def damage(directory: Path) -> str | None:
    """How the files of a checkpoint differ from what was written, or None if they do not."""
    try:
        files = _recorded(directory)
        for name, expected in files.items():
            if not (directory / name).is_file():
                return f"{name} is missing"
            found = _fingerprint(directory / name)
            if found["bytes"] != expected["bytes"]:
                return f"{name} has {found['bytes']} bytes, expected {expected['bytes']}"
            if found != expected:
                return f"{name} has been changed since it was written"
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _recorded(directory: Path) -> dict[str, dict[str, int | str]]:
    """What files.json records of each file. Raises OSError, ValueError or RecursionError."""
    files = json.loads((directory / FILES).read_bytes())
    if not isinstance(files, dict) or STATE not in files:
        raise ValueError(f"{FILES} does not list {STATE}")
    for name, expected in files.items():
        if not name.isprintable() or not isinstance(expected, dict) or expected.keys() != {"bytes", "sha256"}:
            raise ValueError(f"{FILES} is damaged at {name!r}")
    return files


def _folder(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def rows_folder(run_dir: Path, step: int) -> Path:
    """Where the ranks of a sharded learner put their parts of a checkpoint, on the way to it."""
    return _folder(run_dir) / f"step_{step:06d}.rows.tmp"


def make_rows_folder(run_dir: Path, step: int) -> None:
    """Make that directory anew."""
    folder = rows_folder(run_dir, step)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _remove_leftovers(run_dir: Path, *, but: Path) -> None:
    """Remove temporary directories of killed processes. Only one process at a time writes checkpoints of a run."""
    for path in _folder(run_dir).glob("step_*.tmp"):
        if path != but and re.fullmatch(r"step_\d{6,}\.(\d+|rows)\.tmp", path.name):
            shutil.rmtree(path, ignore_errors=True)


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
