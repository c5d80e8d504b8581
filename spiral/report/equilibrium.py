"""How often the policy took each action in an information state, and how often an equilibrium takes it."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from spiral.game.perfect import perfect_policy
from spiral.game.solve import decision_points
from spiral.types import POLICY

if TYPE_CHECKING:
    import pyarrow as pa

MAX_STATES = 1000  # information states; then solving a game takes seconds at most


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """An information state of `role`. `equilibrium` holds one probability per action, in one of the equilibria."""

    game: str
    role: int
    actions: tuple[str, ...]
    equilibrium: tuple[float, ...]


@cache
def states(game_id: str) -> dict[tuple[int, str], State]:
    """(role, observation) -> information state of a game with at most MAX_STATES of them; {} for any other game.

    Also {} if an observation belongs to two states, or the game cannot be made here.
    """
    try:
        points = decision_points(game_id, MAX_STATES)
    except ValueError:
        return {}
    policy = perfect_policy(game_id)
    found = {
        (point.role, point.observation): State(
            game=game_id,
            role=point.role,
            actions=point.legal_actions,
            equilibrium=policy[point.role, point.info_state],
        )
        for point in points
    }
    return found if len(found) == len(points) else {}


def count_actions(table: "pa.Table") -> dict[tuple[str, int, str], Counter[str | None]]:
    """(game, role, observation) -> how often the policy took each action; None counts illegal answers.

    `table` is that of the episodes of a step.
    """
    counts: dict[tuple[str, int, str], Counter[str | None]] = {}
    if not any(states(game) for game in table["game"].unique().to_pylist()):
        return counts
    names = ("game", "role", "observation", "player", "action", "legal")
    rows = Counter(zip(*(table[name].to_pylist() for name in names), strict=True))
    for (game, role, observation, player, action, legal), count in rows.items():
        if player == POLICY:
            counts.setdefault((game, role, observation), Counter())[action if legal else None] += count
    return counts
