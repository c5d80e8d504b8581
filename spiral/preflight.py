"""Checks that can fail before anything expensive starts. Every error is one line that says how to fix it."""

import os
import shutil
from collections.abc import Callable

from spiral import models
from spiral.config import Config, UserError
from spiral.game import Game, make, scripted
from spiral.game.solve import exact_games
from spiral.machine import GIB, existing_parent, num_gpus, packages_that_break_vllm
from spiral.monitor.sinks import check_sinks
from spiral.plugins import load_plugin
from spiral.rollout.answers import asks_for_reasoning
from spiral.rollout.prompt import MessageBuilder
from spiral.types import BASE, PAST, POLICY


def check(config: Config, *, new_run: bool) -> None:
    """Raise UserError if this run cannot work here."""
    if new_run and config.run_dir.exists():
        raise UserError(
            f"run directory {config.run_dir} exists; continue it with `spiral resume {config.run_dir}`, "
            "or pick another name: run.name=NAME"
        )
    check_installation()
    for check_part in CONFIG_CHECKS.values():
        check_part(config)
    check_gpus(config, with_learner=True)
    models.check_available(config.model.name)
    _check_disk(config)


def check_installation() -> None:
    """Raise UserError if vLLM cannot be imported here."""
    if stray := packages_that_break_vllm():
        raise UserError(
            f"{', '.join(stray)} next to a CPU build of torch: their CUDA builds stop vLLM from being imported, and "
            f"text models do not need them; pip uninstall --yes {' '.join(stray)}"
        )


def check_games(config: Config) -> None:
    """Raise UserError for a game that cannot be played, or an opponent that cannot play it."""
    for name in config.endpoints:
        if scripted.is_script(name):
            raise UserError(f"endpoints: {name} is the name of a scripted player; call it something else")
    for choice in config.games:
        game = make_game(choice.id)
        if config.model.name == models.TINY and game.legal_actions() is None:
            raise UserError(
                f"{choice.id} does not list its legal actions, which the warm-up of {models.TINY} needs; choose "
                f"another model, such as model.name={models.SMOLLM2}"
            )
        for key, opponents in (
            ("eval.opponents", config.eval.opponents if config.eval.every else ()),
            ("league.opponents", tuple(config.league.opponents)),
        ):
            models_of = (BASE, POLICY, PAST) if key == "league.opponents" else (BASE,)
            for opponent in opponents:
                if opponent not in (*models_of, *config.endpoints):
                    _require_script(key, opponent, choice.id, game)


def _require_script(key: str, opponent: str, game_id: str, game: Game) -> None:
    try:
        scripted.require_playable(opponent, game_id, game)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def make_game(game_id: str) -> Game:
    """A match of a game. Raises UserError if there is no such game."""
    try:
        return make(game_id, 0)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_gpus(config: Config, *, with_learner: bool) -> None:
    """Raise UserError if this machine has too few GPUs. (A cluster's are counted when it is joined.)"""
    generators = config.generators.count * config.generators.gpus
    needed = config.num_gpus if with_learner else generators
    if needed > num_gpus() and not os.environ.get("RAY_ADDRESS"):
        learner = f"learner: {config.learner.gpus}, " if with_learner else ""
        raise UserError(
            f"this run needs {needed} GPUs ({learner}generators: {config.generators.count} x "
            f"{config.generators.gpus}), this machine has {num_gpus()}; on a CPU use configs/quickstart.yaml"
        )


def _check_plugins(config: Config) -> None:
    MessageBuilder.of(config.rollout)
    check_sinks(config)
    for group, key, name in (
        ("spiral.losses", "learner.loss", config.learner.loss),
        ("spiral.advantages", "learner.advantage", config.learner.advantage),
    ):
        try:
            load_plugin(group, name, key)
        except ValueError as error:
            raise UserError(str(error)) from error


def _check_lengths(config: Config) -> None:
    reasons = asks_for_reasoning(config.rollout.answer_format)
    if reasons and not config.eval.nash_conv_samples and exact_games(config):
        raise UserError(
            f"NashConv scores bare answers, but rollout.answer_format {config.rollout.answer_format!r} asks for "
            "reasoning before them: set eval.nash_conv_samples=64 to estimate it from sampled completions, "
            "eval.nash_conv_states=0, or rollout.answer_format=bracket"
        )
    if config.model.name == models.TINY and config.generators.max_model_len > models.TINY_CONTEXT:
        raise UserError(f"{models.TINY} has a context of {models.TINY_CONTEXT} tokens: lower generators.max_model_len")


CONFIG_CHECKS: dict[str, Callable[[Config], None]] = {
    "games": check_games,
    "plug-ins": _check_plugins,
    "answers and context": _check_lengths,
}
"""Checks of the config that need no more of a machine than its installation. Each raises UserError."""


def trained_bytes(config: Config) -> int:
    """Bytes of what is trained, in float32: the model, or its adapters. 0 if it is too little to matter.

    Raises UserError if the model's size cannot be found out.
    """
    weights = models.float32_bytes(config.model)
    if config.learner.lora_rank:  # beside a square matrix of 1,024 rows, adapters of rank r have r / 512 of its weights
        return weights * config.learner.lora_rank // 512
    return weights


def checkpoint_bytes(config: Config) -> int:
    """Disk space for a run's checkpoints. Raises UserError if the model's size cannot be found out.

    A checkpoint holds weights, AdamW's two moments, perhaps reference and average, in float32; one is written aside.
    Several ranks write the rows of these models before whole tensors are made of them. Past selves that a checkpoint
    needs stay beside it: at most as many are new in the next one.
    """
    num_models = 1 + (config.learner.kl_coef > 0) + (config.learner.weight_ema is not None)
    num_copies = (2 + num_models) * (config.checkpoint.keep_last + 1) + num_models * (config.learner.ranks > 1)
    num_past = config.league.past_places * (config.checkpoint.keep_last + 1)
    return trained_bytes(config) * (num_copies + num_past) + GIB // 4


def _check_disk(config: Config) -> None:
    needed = checkpoint_bytes(config)
    parent = existing_parent(config.run_dir)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"run.dir: {parent} is not writable")
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"not enough disk for checkpoints: {needed / GIB:.1f} GiB needed at {parent}, {free / GIB:.1f} GiB free; "
            "free some space, lower checkpoint.keep_last, or set run.dir"
        )
