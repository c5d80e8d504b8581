"""The variance of the policy gradient under each advantage estimator, relative to RAE with equally many matches.

    python benchmarks/variance.py [--game kuhn_poker] [--steps 120] [--matches 384]

A policy that stays as it is, a table of logits, plays `--steps` steps of `--matches` matches. In each step the
framework's own estimators score the same headers (`deal` those of matches in groups of eight of one seed), and give a
gradient with respect to the logits. The variance is the sum over logits of the variance over steps; the first steps,
in which baselines settle, are left out. One policy is uniform, the other has logits drawn from a normal distribution.
All expectations are equal (test_leave_one_out.py and test_continuations.py in tests/unit), so a ratio of 0.5 is worth
twice the matches. For `branch` each match has a continuation from before every move, which costs turns: the last column
is its ratio times the number of turns that were sampled for each turn that is trained on.
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
from spiral.game import Game, make
from spiral.learn.advantage import AdvantageEstimator
from spiral.learn.baselines import RoleBaselines
from spiral.learn.continuations import BranchBaselines
from spiral.learn.leave_one_out import DealBaselines, PromptBaselines
from spiral.types import EpisodeHeader, Match, TurnHeader

GAMES = ("kuhn_poker", "leduc_poker", "tic_tac_toe")
ESTIMATORS = {"rae": RoleBaselines, "prompt": PromptBaselines, "deal": DealBaselines, "branch": BranchBaselines}
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


def play(game_id: str, match_id: int, seed: int, policy: TablePolicy) -> tuple[EpisodeHeader, list[Choice], int]:
    """One match with a continuation from before each move, its choices, and the number of turns of the continuations.

    Its turns have the state's number as the hash of their prompt.
    """
    game, rng, aside = make(game_id, seed), random.Random(match_id), random.Random(f"continuations {match_id}")
    turns, choices, num_aside = [], [], 0
    while (role := game.role_to_move()) is not None:
        value, num_turns = continuation(game.clone(), policy, aside)  # type: ignore[attr-defined]
        num_aside += num_turns
        choices.append(move(game, role, policy, rng))
        turns.append(
            TurnHeader(
                role=role,
                legal=True,
                prompt_hash=choices[-1].state,
                num_tokens=1,
                min_version=0,
                continuations=(value,),
            )
        )
    header = EpisodeHeader(
        match=Match(id=match_id, game=game_id, seed=seed, players=("policy", "policy")),
        returns=returns(game),
        end_reason="finished",
        turns=tuple(turns),
        forfeit_by=None,
        duration_s=0.0,
        error=None,
    )
    return header, choices, num_aside


def continuation(game: Game, policy: TablePolicy, rng: random.Random) -> tuple[float, int]:
    """Play a match to its end: the return of role 0, and the number of turns."""
    num_turns = 0
    while (role := game.role_to_move()) is not None:
        move(game, role, policy, rng)
        num_turns += 1
    return returns(game)[0], num_turns


def move(game: Game, role: int, policy: TablePolicy, rng: random.Random) -> Choice:
    """Let the policy play a move."""
    legal = game.legal_actions()
    assert legal is not None
    choice = policy.act(role, game.observe(role), len(legal), rng)
    game.step(legal[choice.chosen])
    return choice


def returns(game: Game) -> tuple[float, float]:
    """The returns of a match that is over, within [-1, 1]."""
    first, second = game.returns()
    return first / game.spec.max_return, second / game.spec.max_return


def gradient(step: list[tuple[EpisodeHeader, list[Choice]]], estimator: AdvantageEstimator) -> Gradient:
    """sum_i A_i grad log pi(a_i|s_i) / number of matches, by (state, action)."""
    found: Gradient = defaultdict(float)
    advantages = estimator.score([header for header, _ in step])
    for (_, choices), of_match in zip(step, advantages, strict=True):
        for choice, advantage in zip(choices, of_match, strict=True):
            for action, probability in enumerate(choice.probabilities):
                found[choice.state, action] += advantage * ((action == choice.chosen) - probability) / len(step)
    return found


def gradients(game: str, scale: float, steps: int, matches: int) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Per estimator [steps, logits], after the first steps; and for `branch` the turns sampled per turn trained on."""
    policy, config = TablePolicy(scale), LearnerConfig()
    estimators = {name: factory(config) for name, factory in ESTIMATORS.items()}
    found: dict[str, list[Gradient]] = {name: [] for name in ESTIMATORS}
    num_turns = num_aside = 0
    for step in track(range(steps + SETTLING), description=f"{game}, logits of scale {scale:g}"):
        ids = range(step * matches, (step + 1) * matches)
        for names, deals in ((("rae", "prompt", "branch"), 1), (("deal",), DEALS)):
            *played, aside = zip(*(play(game, k, k // deals, policy) for k in ids), strict=True)
            num_turns, num_aside = num_turns + sum(map(len, played[1])), num_aside + sum(aside)
            for name in names:
                found[name].append(gradient(list(zip(*played, strict=True)), estimators[name]))
    keys = sorted({key for rows in found.values() for row in rows for key in row})
    kept = {name: np.array([[row[key] for key in keys] for row in rows[SETTLING:]]) for name, rows in found.items()}
    return kept, 1 + num_aside / num_turns


def ratio(of: NDArray[np.float64], to: NDArray[np.float64], cost: float = 1.0) -> str:
    """The ratio of two variances times `cost`, with its 95% bootstrap interval over steps."""
    rng = np.random.default_rng(0)
    first, second = (((x - x.mean(0)) ** 2).sum(1) for x in (of, to))
    picks = rng.integers(len(first), size=(RESAMPLES, len(first)))
    low, high = cost * np.quantile(first[picks].mean(1) / second[picks].mean(1), [0.025, 0.975])
    return f"{cost * first.mean() / second.mean():.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", nargs="+", default=GAMES)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--matches", type=int, default=384, help=f"per step; a multiple of {DEALS}")
    options = parser.parse_args()
    names = ("prompt / rae", f"deal / rae ({DEALS} matches a deal)", "branch / rae", "per turn sampled")
    table = Table("game", "policy", "variance of rae", *names)
    for game in options.game:
        for name, scale in (("uniform", 0.0), ("normal logits", 1.0)):
            rows, cost = gradients(game, scale, options.steps, options.matches)
            rae = rows["rae"]
            ratios = [ratio(rows[other], rae) for other in ("prompt", "deal", "branch")]
            table.add_row(game, name, f"{rae.var(0).sum():.2e}", *ratios, ratio(rows["branch"], rae, cost))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
