"""Role-conditioned advantage estimation (RAE), SPIRAL (arXiv 2506.24119), section 3.

In self-play one policy collects both returns of a zero-sum game, so their mean over roles is always 0 and says nothing.
A role, however, can be the better one to be in. RAE therefore keeps one exponential moving average of the return per
(game, role):

    b[g,p] <- alpha * b[g,p] + (1 - alpha) * R_p          A_p = R_p - b[g,p]

in that order, which is the same as A_p = alpha * (R_p - old b[g,p]).
"""

from collections.abc import Iterable

from spiral.types import POLICY, Episode


class Baselines:
    """The table of moving averages, one for the whole run. It starts at 0 for every (game, role)."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._table: dict[tuple[str, int], float] = {}

    def score(self, episodes: Iterable[Episode]) -> dict[int, tuple[float, float]]:
        """Update the table with `episodes`, in the order of their match ids, and return {match id: advantage per role}.

        Only roles that the policy itself played are averaged; another player's role gets advantage 0.
        """
        advantages = {}
        for episode in sorted(episodes, key=lambda episode: episode.match.id):
            per_role = [0.0, 0.0]
            for role, label in enumerate(episode.match.players):
                if label != POLICY:
                    continue
                key = (episode.match.game, role)
                baseline = self._decay * self.value(*key) + (1 - self._decay) * episode.returns[role]
                self._table[key] = baseline
                per_role[role] = episode.returns[role] - baseline
            advantages[episode.match.id] = (per_role[0], per_role[1])
        return advantages

    def value(self, game: str, role: int) -> float:
        """The current average return of `role` in `game`."""
        return self._table.get((game, role), 0.0)

    def state_dict(self) -> list[tuple[str, int, float]]:
        return [(game, role, value) for (game, role), value in self._table.items()]

    def load_state_dict(self, state: list[tuple[str, int, float]]) -> None:
        self._table = {(game, role): value for game, role, value in state}
