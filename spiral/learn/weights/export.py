"""Exports: the model of a checkpoint as a plain Hugging Face directory, without the learner's state."""

import shutil
from pathlib import Path

from spiral.learn.weights.checkpoint import (
    FILES,
    LEARNER,
    OPTIMIZER,
    POLICY,
    REFERENCE,
    STATE,
    damage,
    list_checkpoints,
    step_of,
)
from spiral.storage.atomic import atomic_directory

ADAPTER_CONFIG = "adapter_config.json"  # a directory with this peft file holds a LoRA adapter
LEFT_OUT = (LEARNER, OPTIMIZER, POLICY, REFERENCE, FILES, STATE)
"""What only a resumed run needs. `config.yaml` stays: the model answers in the prompt and answer format it names."""


def export(run_dir: Path, target: Path, step: int | None = None, *, merged: bool = False) -> Path:
    """Copy the model of a checkpoint (default: the newest) to the new directory `target`; return the checkpoint.

    For a LoRA run the export is the adapter or, with `merged`, the whole model with the adapter added to its weights.
    Raises ValueError if there is no such checkpoint, if it is damaged, if it has no adapter to merge, or if `target`
    exists.
    """
    checkpoint = _find(run_dir, step)
    if (what := damage(checkpoint)) is not None:
        raise ValueError(f"checkpoint {checkpoint} is damaged: {what}")
    if target.exists():
        raise ValueError(f"{target} exists; choose another directory")
    if merged and not (checkpoint / ADAPTER_CONFIG).exists():
        raise ValueError(f"{run_dir} trained all weights, not a LoRA adapter: there is nothing to merge")
    with atomic_directory(target) as temporary:
        shutil.copytree(checkpoint, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        if merged:
            _merge_in_place(temporary)
    return checkpoint


def _find(run_dir: Path, step: int | None) -> Path:
    checkpoints = list_checkpoints(run_dir)
    found = [path for path in checkpoints if step is None or step_of(path) == step]
    if not found:
        existing = ", ".join(str(step_of(path)) for path in checkpoints) or "none"
        which = "" if step is None else f" of step {step}"
        raise ValueError(f"{run_dir} has no checkpoint{which}; it has: {existing}")
    return found[-1]


def _merge_in_place(directory: Path) -> None:
    """Replace the adapter in `directory` by the model that it adapts, with the adapter added to its weights."""
    from spiral.learn.model.parameters import merge

    merge(directory).save_pretrained(directory)
    for adapter_file in directory.glob("adapter_*"):
        adapter_file.unlink()
