"""Everything that is measured at an evaluation: exact NashConv, and paired matches against each opponent."""

import contextlib
from collections.abc import Callable, Sequence

from spiral.config import Config
from spiral.evaluate.arena import paired_matches, paired_score
from spiral.evaluate.exploitability import language_model_nash_conv
from spiral.game import ExactGame, make
from spiral.game.solve import DecisionPoint, decision_points
from spiral.types import Episode, Match

Play = Callable[[list[Match]], list[Episode]]
ActionLogprobs = Callable[[str, Sequence[DecisionPoint]], list[tuple[float, ...]]]


def exact_games(config: Config) -> dict[str, tuple[DecisionPoint, ...]]:
    """The configured games whose NashConv is computed, each with its information states."""
    found = {}
    if config.eval.every and config.eval.nash_conv_states:
        for choice in config.games:
            game = make(choice.id, 0)
            if game.spec.exact and isinstance(game, ExactGame):
                with contextlib.suppress(ValueError):  # too many
                    found[choice.id] = decision_points(choice.id, config.eval.nash_conv_states)
    return found


def evaluate(config: Config, play: Play, action_logprobs: ActionLogprobs) -> tuple[dict[str, float], list[Episode]]:
    """(metrics `eval/...`, one episode per game and opponent to show) of the policy behind the two functions.

    `play` returns the episodes of matches in their order; `action_logprobs` gives the policy's log-probability of
    each legal action at each decision point of a game.
    """
    metrics: dict[str, float] = {}
    for game, points in exact_games(config).items():
        nash_conv, illegal_mass = language_model_nash_conv(game, points, action_logprobs(game, points))
        metrics |= {f"eval/{game}/nash_conv": nash_conv, f"eval/{game}/illegal_mass": illegal_mass}

    plan = [(game.id, opponent) for game in config.games for opponent in config.eval.opponents]
    if not plan:
        return metrics, []
    share = 2 * config.eval.pairs
    matches = [
        match
        for number, (game, opponent) in enumerate(plan)
        for match in paired_matches(game, opponent, config.eval.pairs, config.seed, first_id=share * number)
    ]
    episodes = play(matches)  # all at once: the engine is fastest when it is full
    for number, (game, opponent) in enumerate(plan):
        score = paired_score(episodes[share * number : share * (number + 1)])
        metrics[f"eval/{game}/vs_{opponent}/score"] = score.mean
        metrics[f"eval/{game}/vs_{opponent}/ci95"] = score.ci95
    turns = [turn for episode in episodes for turn in episode.turns if turn.completion is not None]
    metrics["eval/illegal_rate"] = sum(not turn.legal for turn in turns) / len(turns)
    return metrics, episodes[::share]
