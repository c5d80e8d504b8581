"""Advantages per turn from continuations of the match: the plug-in `branch`.

With `rollout.branches`, every move of a match is preceded by copies of the match that are played to their ends without
being trained on. What they return on average is the value of the situation before the move, whatever the policy then
chose, and those from before the next move, together with the return of the match itself, the value after it. The
difference is the credit of this one move, as in VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679).
"""

from collections.abc import Sequence

from spiral.config import LearnerConfig
from spiral.learn.baselines import RoleBaselines
from spiral.learn.leave_one_out import Returns
from spiral.types import POLICY, EpisodeHeader


class BranchBaselines(RoleBaselines):
    """`learner.advantage: branch`: what a move changed.

    Let V be the mean of m returns that its role got in continuations from before the move, and Q the mean of R and of
    those from before the next move (R alone after the last move, and after an answer that was refused):

        b = (m V + n0 b_role) / (m + n0)          A = alpha * (Q - b)

    b_role is RAE's baseline before this episode; alpha is `baseline_decay`, n0 `baseline_prior`. Without continuations
    this is RAE.
    """

    def __init__(self, config: LearnerConfig) -> None:
        super().__init__(config)
        self._config = config

    def score(self, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        """advantages[episode][turn]; those of turns of other players are 0."""
        rae = super().score(headers)
        return [self._scored(header, of_match) for header, of_match in zip(headers, rae, strict=True)]

    def _scored(self, header: EpisodeHeader, rae: Sequence[float]) -> list[float]:
        alpha, prior = self._config.baseline_decay, self._config.baseline_prior
        scored = [0.0] * len(header.turns)
        after = Returns()  # of role 0, in the continuations from before the next move
        for number, turn in reversed(list(enumerate(header.turns))):
            before = Returns(sum(turn.continuations), len(turn.continuations))
            if header.match.players[turn.role] == POLICY:
                sign, own = 1 - 2 * turn.role, header.returns[turn.role]
                value = (own + sign * after.total) / (1 + after.number) if turn.legal else own
                fallback = rae[number] + alpha * (value - own)
                scored[number] = Returns(sign * before.total, before.number).advantage(value, alpha, fallback, prior)
            after = before
        return scored
