"""SPIRAL: train one language model by playing zero-sum text games against itself.

    config = spiral.load_config("configs/smoke.yaml", ["run.name=api"])
    run = spiral.train(config)
    result = spiral.evaluate(run.model_dir, games=["kuhn_poker"])

Importing this package is fast: what it offers is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that type checkers and editors see what __getattr__ provides
    from spiral.api import evaluate, evaluate_mixture, evaluate_reasoning, resume, train
    from spiral.config import Config, RunFailed, UserError, load_config
    from spiral.evaluation.evaluator import Evaluation
    from spiral.evaluation.reasoning import ReasoningEvaluation
    from spiral.game import ExactGame, Game, GameSpec, IllegalAction, make, one_line, refuse_unlisted
    from spiral.game.conformance import check
    from spiral.game.solve import nash_conv
    from spiral.learn.advantage import AdvantageEstimator
    from spiral.learn.loss import LossInputs
    from spiral.monitor.sink import Sink
    from spiral.rollout.prompt import Message, PromptInput
    from spiral.run import Run
    from spiral.types import Completion, Episode, EpisodeHeader, Match, Turn, TurnHeader

__version__ = "0.1.0"

_HOME = {
    "spiral.api": ("evaluate", "evaluate_mixture", "evaluate_reasoning", "resume", "train"),
    "spiral.config": ("Config", "RunFailed", "UserError", "load_config"),
    "spiral.evaluation.evaluator": ("Evaluation",),
    "spiral.evaluation.reasoning": ("ReasoningEvaluation",),
    "spiral.game": ("ExactGame", "Game", "GameSpec", "IllegalAction", "make", "one_line", "refuse_unlisted"),
    "spiral.game.conformance": ("check",),
    "spiral.game.solve": ("nash_conv",),
    "spiral.learn.advantage": ("AdvantageEstimator",),
    "spiral.learn.loss": ("LossInputs",),
    "spiral.monitor.sink": ("Sink",),
    "spiral.rollout.prompt": ("Message", "PromptInput"),
    "spiral.run": ("Run",),
    "spiral.types": ("Completion", "Episode", "EpisodeHeader", "Match", "Turn", "TurnHeader"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AdvantageEstimator",
    "Completion",
    "Config",
    "Episode",
    "EpisodeHeader",
    "Evaluation",
    "ExactGame",
    "Game",
    "GameSpec",
    "IllegalAction",
    "LossInputs",
    "Match",
    "Message",
    "PromptInput",
    "ReasoningEvaluation",
    "Run",
    "RunFailed",
    "Sink",
    "Turn",
    "TurnHeader",
    "UserError",
    "check",
    "evaluate",
    "evaluate_mixture",
    "evaluate_reasoning",
    "load_config",
    "make",
    "nash_conv",
    "one_line",
    "refuse_unlisted",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'spiral' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
