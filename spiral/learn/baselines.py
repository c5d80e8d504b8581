"""Role-conditioned advantage estimation (RAE), SPIRAL (arXiv 2506.24119), section 3.

In self-play one policy collects both returns of a zero-sum game, so their mean over roles is always 0 and says nothing.
A role, however, can be the better one to be in. RAE therefore keeps one exponential moving average of the return per
(game, role), and where others than the policy itself play against it, per (game, role, class of opponent):

    b[g,p] <- alpha * b[g,p] + (1 - alpha) * R_p          A_p = R_p - b[g,p]

in that order, which is the same as A_p = alpha * (R_p - old b[g,p]).
"""

from collections.abc import Sequence

from spiral.config import LearnerConfig
from spiral.types import POLICY, EpisodeHeader


class RoleBaselines:
    """The moving averages, one table for the whole run, with alpha = `config.baseline_decay`.

    The built-in advantage estimator, `learner.advantage: rae` (see `spiral.learn.advantage`). Every baseline starts
    at 0.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self._alpha = config.baseline_decay
        self._table: dict[tuple[str, int, str], float] = {}
        self._games_scored: set[str] = set()

    def score(self, headers: Sequence[EpisodeHeader]) -> list[list[float]]:
        """Update the table episode by episode; return advantages[episode][turn], that of the turn's role.

        Only roles that the policy played update the table; the turns of other players get advantage 0.
        """
        self._games_scored = {header.match.game for header in headers}
        advantages = []
        for header in headers:
            role_advantage = [0.0, 0.0]
            for role, player in enumerate(header.match.players):
                if player != POLICY:
                    continue
                key = (header.match.game, role, header.match.opponent_class(role))
                baseline = self._alpha * self.value(*key) + (1 - self._alpha) * header.returns[role]
                self._table[key] = baseline
                role_advantage[role] = header.returns[role] - baseline
            advantages.append([role_advantage[turn.role] for turn in header.turns])
        return advantages

    def value(self, game: str, role: int, opponent: str = POLICY) -> float:
        """The baseline of `role` in `game` against a class of opponents: its average return."""
        return self._table.get((game, role, opponent), 0.0)

    def metrics(self) -> dict[str, float]:
        """`game/<id>/role<k>/baseline` of the games that were scored last; against others `.../baseline_vs_<class>`."""
        return {
            f"game/{game}/role{role}/baseline" + ("" if opponent == POLICY else f"_vs_{opponent}"): value
            for (game, role, opponent), value in sorted(self._table.items())
            if game in self._games_scored
        }

    def state_dict(self) -> list[tuple[str, int, str, float]]:
        """The table, as (game, role, class of opponent, baseline)."""
        return [(*key, value) for key, value in self._table.items()]

    def load_state_dict(self, state: list[tuple[str, int, str, float]]) -> None:
        """Replace the table by one that `state_dict` returned."""
        self._table = {(game, role, opponent): value for game, role, opponent, value in state}
