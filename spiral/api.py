"""`spiral.train`, `spiral.resume` and `spiral.evaluate`: what the commands of these names call."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from spiral import models, preflight
from spiral.cluster import running_generators
from spiral.config import Config, UserError, load_config, override
from spiral.evaluation.evaluator import Evaluation, evaluate_policy
from spiral.evaluation.exploitability import Strength, exact_strength, language_model_policy
from spiral.evaluation.mixture import mixture
from spiral.evaluation.problems import Problem, build_suite
from spiral.evaluation.reasoning import Attempt, ReasoningEvaluation, grade
from spiral.game.solve import exact_games
from spiral.game.tree import Table
from spiral.learn.weights import checkpoint
from spiral.monitor.files import MetricsFile
from spiral.rollback import newest_checkpoint
from spiral.rollout.answers import asks_for_reasoning
from spiral.run import Run
from spiral.stop import Stop
from spiral.trainer import Trainer
from spiral.types import WeightsRef

OnProgress = Callable[[str, int, int], None]
WARMUP_GAMES = ("kuhn_poker",)
"""What builtin/tiny is warmed up on where no games are asked for."""

FIXED = (  # what a resumed run cannot change
    "seed",
    "games",
    "model",
    "league",
    "rollout.deals",
    "learner.advantage",
    "learner.lora_rank",
    "learner.lora_alpha",
    "learner.lora_targets",
)


def train(config: Config, *, stop: Stop | None = None) -> Run:
    """Train a model from the beginning, in a new run directory, until `config.steps` or a stop.

    Starts Ray, one vLLM engine per generator and the learner, and ends them. Raises UserError for what the user can
    fix, before anything expensive starts, RunFailed for a run that failed, and FloatingPointError for a loss or
    gradient that is not finite.
    """
    preflight.check(config, new_run=True)
    model_dir = models.resolve(config)  # before there is a run directory, which a failure here would leave behind
    config.run_dir.mkdir(parents=True)
    _train_from(None, config, model_dir, stop or Stop())
    return Run.open(config.run_dir)


def resume(run_dir: str | Path, overrides: Sequence[str] = (), *, stop: Stop | None = None) -> Run:
    """Continue a run from its newest undamaged checkpoint, or from the beginning if it has none yet.

    `overrides` are `key.path=value`, for example `steps=200`. Raises like `train`.
    """
    run_dir = Path(run_dir)
    before = Run.open(run_dir).config
    location = {"run.dir": str(run_dir.absolute().parent), "run.name": run_dir.absolute().name}
    config = override(load_config(run_dir / "config.yaml", overrides), location)
    for key in FIXED:
        if attrgetter(key)(before) != attrgetter(key)(config):
            raise UserError(f"{key} cannot change when a run is resumed; start a new run with `spiral train`")
    preflight.check(config, new_run=False)
    newest = newest_checkpoint(run_dir, warn=lambda text: print(f"warning: {text}", file=sys.stderr))
    if newest is None and checkpoint.list_checkpoints(run_dir):
        raise UserError(f"every checkpoint of {run_dir} is damaged; start a new run with `spiral train`")
    if newest and _is_done(run_dir, checkpoint.read_state(newest), config.steps):
        raise UserError(f"{run_dir} has done its {config.steps} steps; to train on: spiral resume {run_dir} steps=MORE")
    _train_from(newest, config, models.resolve(config), stop or Stop())
    return Run.open(run_dir)


def _train_from(start: Path | None, config: Config, model_dir: Path, stop: Stop) -> None:
    """Train from a checkpoint or the beginning; after a rollback, from where it went back to."""
    while Trainer(config, model_dir, start, stop).run() and not stop.requested:
        start = newest_checkpoint(config.run_dir)


def _is_done(run_dir: Path, state: dict[str, Any], steps: int) -> bool:
    """Whether all steps are done and recorded; a run can end between its last checkpoint and its last row."""
    recorded = {row["step"] for row in MetricsFile(run_dir).read()}
    return state["step"] >= steps and state["step"] in recorded


def evaluate(
    model: str | Path,
    games: Sequence[str] = (),
    opponents: Sequence[str] = ("random",),
    *,
    pairs: int = 100,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> Evaluation:
    """Measure a model: exact NashConv in games that can be enumerated, and paired matches against each opponent.

    `model` is a run directory, a checkpoint, an exported or any other Hugging Face directory, a hub id or a built-in
    model. `games` default to those of the run that trained it, `opponents` are scripted players. Matches come in
    `pairs`: one seed, both roles. A model that a run trained is played with that run's prompt, answer format and
    sampling settings; `overrides` (`key.path=value`) change them. Raises UserError and RunFailed.
    """
    settings = [f"seed={seed}", f"eval.pairs={pairs}", "eval.every=1", f"eval.opponents={json.dumps(list(opponents))}"]
    for game in games:  # before a model is built for them
        preflight.make_game(game)
    playable = models.open_model(str(model), games, [*settings, *overrides])
    config = playable.config
    if asks_for_reasoning(config.rollout.answer_format) and not config.eval.nash_conv_samples:
        config = load_config(config.model_dump(mode="json"), ["eval.nash_conv_states=0"])
    preflight.check_installation()
    preflight.check_games(config)
    preflight.check_gpus(config, with_learner=False)
    with running_generators(config, playable.model_dir, playable.adapter_dir) as generators:
        return evaluate_policy(config, generators.play, generators.action_logprobs, generators.action_counts)


def evaluate_mixture(run_dir: str | Path, games: Sequence[str] = ()) -> dict[str, tuple[dict[int, Strength], Strength]]:
    """The strength of each checkpoint that a run has kept, by step, and of their mixture, per game.

    The mixture draws one of the checkpoints before each match, each with the same probability: it is the average policy
    of fictitious play, which converges where the last one circles. Nothing is trained on it. `games` default to those
    of the run; those that cannot be enumerated are left out. Raises UserError and RunFailed.
    """
    run_dir = Path(run_dir)
    checkpoints = checkpoint.list_checkpoints(run_dir)
    if not checkpoints:
        raise UserError(f"{run_dir} is not a run with checkpoints")
    playable = models.open_model(str(run_dir), games, ["eval.every=1"])
    points = exact_games(playable.config)
    if not points or asks_for_reasoning(playable.config.rollout.answer_format):
        raise UserError(f"{run_dir}: a mixture needs a game that can be enumerated, and answers without reasoning")
    tables: dict[str, dict[int, Table]] = {game: {} for game in points}
    with running_generators(playable.config, playable.model_dir, playable.adapter_dir) as cluster:
        for number, directory in enumerate(checkpoints, start=1):
            weights = WeightsRef(
                version=number, location=str(directory.absolute()), is_adapter=playable.adapter_dir is not None
            )
            cluster.generators.update(number, lambda host, weights=weights: host.call("load", weights))  # type: ignore[misc]
            for game, states in points.items():
                table, _ = language_model_policy(game, states, cluster.action_logprobs(game, states))
                tables[game][checkpoint.step_of(directory)] = table
    return {
        game: (
            {step: exact_strength(game, states, table) for step, table in tables[game].items()},
            exact_strength(game, states, mixture(game, list(tables[game].values()))),
        )
        for game, states in points.items()
    }


def evaluate_reasoning(
    model: str | Path,
    against: str | Path | None = None,
    *,
    suite: str = "reasoning",
    size: int = 50,
    seed: int = 0,
    games: Sequence[str] = (),
    overrides: Sequence[str] = (),
    on_progress: OnProgress = lambda *progress: None,
) -> ReasoningEvaluation:
    """Measure how many reasoning problems a model solves, and how many of the same ones another model solves.

    There are `size` problems of each dataset of the suite. `model` is what `evaluate` takes. It is compared with
    `against`, by default the model that its run began with; a model that no run has trained is then compared with none.
    Both answer at temperature 0, with the prompt, answer format and token limit that `model` was trained with;
    `overrides` (`key.path=value`) change them. `games` are only for the warm-up of builtin/tiny. `on_progress` gets a
    model's name and how many of how many problems it has answered. Raises UserError and RunFailed.
    """
    start_s = time.monotonic()
    problems = build_suite(suite, size=size, seed=seed)
    first = models.open_model(str(model), games, overrides, games_if_untrained=WARMUP_GAMES)
    second = _compared_with(first, against, games, overrides)
    preflight.check_installation()
    for playable in (first, *([second] if second else [])):
        preflight.check_gpus(playable.config, with_learner=False)
    return ReasoningEvaluation(
        model=str(model),
        against=second.name if second else None,
        suite=suite,
        seed=seed,
        answer_format=first.config.rollout.answer_format,
        max_tokens=first.config.rollout.max_tokens,
        attempts=_attempts(first, problems, on_progress),
        against_attempts=_attempts(second, problems, on_progress) if second else {},
        duration_s=time.monotonic() - start_s,
    )


def _compared_with(
    model: models.PlayableModel, against: str | Path | None, games: Sequence[str], overrides: Sequence[str]
) -> models.PlayableModel | None:
    """The model that `model` is compared with, asked in the same way."""
    if against is not None:
        games_of_model = [game.id for game in model.config.games]
        other = models.open_model(str(against), games, overrides, games_if_untrained=games_of_model)
        return replace(other, config=other.config.model_copy(update={"rollout": model.config.rollout}))
    if model.base is None:
        return None
    trained = models.open_model(model.name).config  # without the overrides, which may change what builtin/tiny is
    return replace(model, name=model.base, model_dir=models.resolve(trained), adapter_dir=None)


def _attempts(
    model: models.PlayableModel, problems: Mapping[str, Sequence[Problem]], on_progress: OnProgress
) -> dict[str, list[Attempt]]:
    """What a model makes of problems, by dataset."""
    questions = [problem.question for of_dataset in problems.values() for problem in of_dataset]
    on_progress(model.name, 0, len(questions))
    with running_generators(model.config, model.model_dir, model.adapter_dir) as generators:
        responses = iter(
            generators.responses(questions, lambda num_done: on_progress(model.name, num_done, len(questions)))
        )
    return {
        dataset: [grade(problem, next(responses)) for problem in of_dataset] for dataset, of_dataset in problems.items()
    }
