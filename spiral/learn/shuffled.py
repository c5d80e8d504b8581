"""The null control: advantages from returns that are permuted among a step's episodes, `learner.advantage: shuffled`.

A run with it is like any other in its prompts, step sizes, KL and entropy terms, but its returns say nothing about its
play. What an evaluation still finds it to have gained, self-play has not taught it (docs/strength.md).
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from spiral.config import LearnerConfig
from spiral.types import POLICY, EpisodeHeader


class ShuffledReturns:
    """Permutes the returns among the episodes of a step with the same game and players, and subtracts their mean.

    Both roles of an episode get the returns of the same other episode, so these stay zero-sum. Over the permutations
    the mean advantage of every turn is exactly 0, whatever the returns. A moving average, as in RAE, would not do: an
    episode gets its own return in one of n permutations, and 1/n of the true gradient would be left.

    Has no state: the permutation is drawn from the first match's id and seed.
    """

    def __init__(self, config: LearnerConfig) -> None:
        pass

    def score(self, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        """advantages[episode][turn]; those of turns of other players are 0."""
        groups: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
        for number, header in enumerate(headers):
            match = header.match
            groups[match.game, match.opponent_class(1), match.opponent_class(0)].append(number)
        rng = random.Random(f"shuffled/{[(header.match.id, header.match.seed) for header in headers[:1]]}")
        role_advantages = [(0.0, 0.0)] * len(headers)
        for numbers in groups.values():
            returns = [headers[number].returns for number in numbers]
            first, second = (fmean(role_returns) for role_returns in zip(*returns, strict=True))
            for number, drawn in zip(numbers, rng.sample(returns, len(returns)), strict=True):
                role_advantages[number] = (drawn[0] - first, drawn[1] - second)
        return [
            [of_role[turn.role] if header.match.players[turn.role] == POLICY else 0.0 for turn in header.turns]
            for header, of_role in zip(headers, role_advantages, strict=True)
        ]

    def state_dict(self) -> None:
        """Nothing."""

    def load_state_dict(self, state: None) -> None:
        """Nothing."""
