"""What can be known to be wrong before anything expensive starts.

Every complaint is one line that says how to mend it.
"""

import itertools
import os
import shutil
from pathlib import Path

from spiral import models
from spiral.config import Config, UserError
from spiral.evaluate.suite import exact_games
from spiral.game import make, scripted

GIB = 2**30


def check(config: Config, *, new_run: bool) -> None:
    """Raise UserError if this run cannot work here."""
    if new_run and config.run_dir.exists():
        raise UserError(
            f"run directory {config.run_dir} exists; go on with `spiral resume {config.run_dir}`, "
            "or pick another name: run.name=NAME"
        )
    for choice in config.games:
        try:
            game = make(choice.id, 0)
        except ValueError as error:
            raise UserError(str(error)) from error
        if config.model.name == models.TINY and game.legal_actions() is None:
            raise UserError(
                f"{choice.id} does not list its legal actions, which the warm-up of {models.TINY} needs; choose "
                f"another model, such as model.name={models.SMOLLM2}"
            )
        for opponent in config.eval.opponents if config.eval.every else ():
            try:
                scripted.require_playable(opponent, choice.id, game)
            except ValueError as error:
                raise UserError(f"eval.opponents: {error}") from error
    if exact_games(config) and config.rollout.answer_format in ("boxed", "tag"):
        raise UserError(
            f"NashConv scores bare answers, but rollout.answer_format {config.rollout.answer_format!r} asks for "
            "reasoning before them: set eval.nash_conv_states=0, or rollout.answer_format=bracket"
        )
    if config.model.name == models.TINY and config.generators.max_model_len > models.TINY_CONTEXT:
        raise UserError(f"{models.TINY} has a context of {models.TINY_CONTEXT} tokens: lower generators.max_model_len")
    _check_gpus(config)
    models.check_available(config.model.name)
    _check_disk(config)


def num_gpus() -> int:
    """GPUs of this machine that this process may use, found without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = itertools.takewhile(lambda device: not device.startswith("-"), visible.replace(" ", "").split(","))
        return len([device for device in devices if device])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _check_gpus(config: Config) -> None:
    needed = config.learner.gpus + config.generators.count * config.generators.gpus
    if os.environ.get("RAY_ADDRESS"):
        return  # a cluster: Ray knows what it has, and `spiral.cluster` asks it
    if needed > num_gpus():
        raise UserError(
            f"this run needs {needed} GPUs (learner: {config.learner.gpus}, generators: {config.generators.count} x "
            f"{config.generators.gpus}), this machine has {num_gpus()}; on a CPU use configs/quickstart.yaml"
        )


def _check_disk(config: Config) -> None:
    """A checkpoint holds weights, AdamW's two moments and perhaps the reference, in float32; one is written aside."""
    parts = 3 + (config.learner.kl_coef > 0)
    trained = _weights_bytes(config)
    if config.learner.lora_rank:  # beside a square matrix of 1,024 rows, adapters of rank r have r / 512 of its weights
        trained = trained * config.learner.lora_rank // 512
    needed = trained * parts * (config.checkpoint.keep_last + 1) + GIB // 4
    parent = config.run_dir.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"run.dir: {parent} is not writable")
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"not enough disk for checkpoints: {needed / GIB:.1f} GiB needed at {parent}, {free / GIB:.1f} GiB free; "
            "free some, lower checkpoint.keep_last, or set run.dir"
        )


def _weights_bytes(config: Config) -> int:
    """Size of the model in float32: of a local directory's files; for the built-in models, what they have."""
    if config.model.name == models.SMOLLM2:
        return 4 * 135_000_000
    directory = Path(config.model.name)
    if not directory.is_dir() and config.model.name != models.TINY:
        return models.hub_bytes(config.model.name, config.model.dtype)
    per_byte = 2 if config.model.dtype == "bfloat16" else 1
    return per_byte * sum(file.stat().st_size for file in directory.glob("*.safetensors")) if directory.is_dir() else 0
