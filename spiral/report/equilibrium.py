"""How often the policy took each action in an information state, and how often an equilibrium takes it."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from spiral.game.perfect import perfect_policy
from spiral.game.solve import decision_points
from spiral.types import POLICY

if TYPE_CHECKING:
    import pyarrow as pa

MAX_STATES = 1000  # information states; then solving a game takes seconds at most
COLUMNS = ["game", "role", "player", "observation", "action", "legal"]


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


def count_actions(table: "pa.Table", game_id: str) -> dict[tuple[int, str], Counter[str | None]]:
    """(role, observation) -> how often the policy took each action; None counts illegal answers.

    `table` has COLUMNS of the episodes of one step.
    """
    import pyarrow.compute as pc

    rows: Any = table.filter(pc.and_(pc.equal(table["game"], game_id), pc.equal(table["player"], POLICY)))
    grouped = rows.group_by(["role", "observation", "action", "legal"]).aggregate([([], "count_all")])
    counts: dict[tuple[int, str], Counter[str | None]] = {}
    for row in grouped.to_pylist():
        taken = counts.setdefault((row["role"], row["observation"]), Counter())
        taken[row["action"] if row["legal"] else None] += row["count_all"]
    return counts
