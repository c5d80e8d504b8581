"""The variance of the policy gradient under each advantage estimator, relative to RAE with equally many matches.

    python benchmarks/variance.py [--game kuhn_poker] [--steps 120] [--matches 384]

A policy that stays as it is, a table of logits, plays `--steps` steps of `--matches` matches. In each step the
framework's own estimators score the same headers (`deal` those of matches in groups of eight of one seed), and give a
gradient with respect to the logits. The variance is the sum over logits of the variance over steps; the first steps,
in which baselines settle, are left out. One policy is uniform, the other has logits drawn from a normal distribution.
All expectations are equal (tests/unit/test_leave_one_out.py), so a ratio of 0.5 is worth twice the matches.
"""

import argparse
import random
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from spiral.config import LearnerConfig
from spiral.game import make
from spiral.learn.advantage import AdvantageEstimator
from spiral.learn.baselines import RoleBaselines
from spiral.learn.leave_one_out import DealBaselines, PromptBaselines
from spiral.types import EpisodeHeader, Match, TurnHeader

GAMES = ("kuhn_poker", "leduc_poker", "tic_tac_toe")
ESTIMATORS = {"rae": RoleBaselines, "prompt": PromptBaselines, "deal": DealBaselines}
DEALS = 8
SETTLING = 20
RESAMPLES = 1000

Gradient = defaultdict[tuple[int, int], float]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a turn chose: the state's number, the probability of each legal action, and the index of the chosen one."""

    state: int
    probabilities: tuple[float, ...]
    chosen: int


class TablePolicy:
    """A policy over observations. Its logits are drawn when a state comes up for the first time: 0 for scale 0."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._states: dict[tuple[int, str], tuple[int, tuple[float, ...]]] = {}

    def act(self, role: int, observation: str, num_actions: int, rng: random.Random) -> Choice:
        """Sample an action."""
        key = (role, observation)
        if key not in self._states:
            drawn = np.random.default_rng(len(self._states)).normal(size=num_actions) * self._scale
            weights = np.exp(drawn)
            self._states[key] = (len(self._states), tuple((weights / weights.sum()).tolist()))
        state, probabilities = self._states[key]
        return Choice(state, probabilities, rng.choices(range(num_actions), probabilities)[0])


def play(game_id: str, match_id: int, seed: int, policy: TablePolicy) -> tuple[EpisodeHeader, list[Choice]]:
    """One match. Its turns have the state's number as the hash of their prompt."""
    game, rng = make(game_id, seed), random.Random(match_id)
    turns, choices = [], []
    while (role := game.role_to_move()) is not None:
        legal = game.legal_actions()
        assert legal is not None
        choices.append(policy.act(role, game.observe(role), len(legal), rng))
        turns.append(TurnHeader(role=role, legal=True, prompt_hash=choices[-1].state, num_tokens=1, min_version=0))
        game.step(legal[choices[-1].chosen])
    chips, most = game.returns(), game.spec.max_return
    header = EpisodeHeader(
        match=Match(id=match_id, game=game_id, seed=seed, players=("policy", "policy")),
        returns=(chips[0] / most, chips[1] / most),
        end_reason="finished",
        turns=tuple(turns),
        forfeit_by=None,
        duration_s=0.0,
        error=None,
    )
    return header, choices


def gradient(step: list[tuple[EpisodeHeader, list[Choice]]], estimator: AdvantageEstimator) -> Gradient:
    """sum_i A_i grad log pi(a_i|s_i) / number of matches, by (state, action)."""
    found: Gradient = defaultdict(float)
    advantages = estimator.score([header for header, _ in step])
    for (_, choices), of_match in zip(step, advantages, strict=True):
        for choice, advantage in zip(choices, of_match, strict=True):
            for action, probability in enumerate(choice.probabilities):
                found[choice.state, action] += advantage * ((action == choice.chosen) - probability) / len(step)
    return found


def gradients(game: str, scale: float, steps: int, matches: int) -> dict[str, NDArray[np.float64]]:
    """Per estimator [steps, logits], after the first steps."""
    policy, config = TablePolicy(scale), LearnerConfig()
    estimators = {name: factory(config) for name, factory in ESTIMATORS.items()}
    found: dict[str, list[Gradient]] = {name: [] for name in ESTIMATORS}
    for step in track(range(steps + SETTLING), description=f"{game}, logits of scale {scale:g}"):
        ids = range(step * matches, (step + 1) * matches)
        for names, deals in ((("rae", "prompt"), 1), (("deal",), DEALS)):
            played = [play(game, k, k // deals, policy) for k in ids]
            for name in names:
                found[name].append(gradient(played, estimators[name]))
    keys = sorted({key for rows in found.values() for row in rows for key in row})
    return {name: np.array([[row[key] for key in keys] for row in rows[SETTLING:]]) for name, rows in found.items()}


def ratio(of: NDArray[np.float64], to: NDArray[np.float64]) -> str:
    """The ratio of two variances, with its 95% bootstrap interval over steps."""
    rng = np.random.default_rng(0)
    first, second = (((x - x.mean(0)) ** 2).sum(1) for x in (of, to))
    picks = rng.integers(len(first), size=(RESAMPLES, len(first)))
    low, high = np.quantile(first[picks].mean(1) / second[picks].mean(1), [0.025, 0.975])
    return f"{first.mean() / second.mean():.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", nargs="+", default=GAMES)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--matches", type=int, default=384, help=f"per step; a multiple of {DEALS}")
    options = parser.parse_args()
    table = Table("game", "policy", "variance of rae", "prompt / rae", f"deal / rae ({DEALS} matches a deal)")
    for game in options.game:
        for name, scale in (("uniform", 0.0), ("normal logits", 1.0)):
            rows = gradients(game, scale, options.steps, options.matches)
            rae = rows["rae"]
            table.add_row(game, name, f"{rae.var(0).sum():.2e}", ratio(rows["prompt"], rae), ratio(rows["deal"], rae))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
