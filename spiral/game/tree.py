"""The whole tree of a game that can be enumerated, as arrays: for solvers that walk it hundreds of times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from spiral.game.protocol import ExactGame
from spiral.game.solve import exact_game

Table = dict[tuple[int, str], tuple[float, ...]]
"""(role, information state) -> one probability per legal action."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(slots=True)
class _Level:
    """The nodes at one depth of the tree, as parallel arrays."""

    parent: Integers  # index of each node's parent in the level above
    slot: Integers  # (information state, action) that leads to each node, numbered over the whole game
    role: Integers  # role that takes this action
    payoff: Floats  # of role 0 in terminal nodes, else 0


@dataclass(frozen=True, slots=True)
class BestResponse:
    """A best response of one role: its value in the game's payoff units, and in `actions` the index of the action taken
    in each information state of that role. `reach` is the probability that it gets there against the policy.
    """

    value: float
    actions: dict[str, int]
    reach: dict[str, float]


class GameTree:
    """The tree, level by level. A slot is one action in one information state; a policy has a probability per slot."""

    def __init__(self, deals: Sequence[tuple[float, ExactGame]]) -> None:
        self.infos: dict[tuple[int, str], tuple[int, int]] = {}  # (role, information state) -> first slot, actions
        self.levels: list[_Level] = []
        self.chance: Floats = np.array([probability for probability, _ in deals])
        self.num_slots = 0
        games = [game for _, game in deals]
        while games:
            games = self._grow(games)
        self.info_of_slot = np.concatenate(
            [np.full(count, number) for number, (_, count) in enumerate(self.infos.values())]
        )
        self.role_of_info = np.array([role for role, _ in self.infos])
        self.first_slot = np.array([first for first, _ in self.infos.values()])

    @property
    def num_nodes(self) -> int:
        """Nodes below the deals."""
        return sum(len(level.slot) for level in self.levels)

    def _grow(self, games: list[ExactGame]) -> list[ExactGame]:
        rows, children = [], []
        for place, game in enumerate(games):
            role = game.role_to_move()
            if role is None:
                continue
            actions = game.legal_actions() or ()
            first, _ = self.infos.setdefault((role, game.info_state(role)), (self.num_slots, len(actions)))
            self.num_slots = max(self.num_slots, first + len(actions))
            for number, action in enumerate(actions):
                child = game.clone()
                child.step(action)
                payoff = child.returns()[0] if child.role_to_move() is None else 0.0
                rows.append((place, first + number, role, payoff))
                children.append(child)
        if rows:
            parent, slot, role_, payoff_ = zip(*rows, strict=True)
            self.levels.append(_Level(np.array(parent), np.array(slot), np.array(role_), np.array(payoff_)))
        return children

    def policy(self, table: Mapping[tuple[int, str], Sequence[float]]) -> Floats:
        """A policy given as a table, as one probability per slot."""
        return np.concatenate([np.asarray(table[key], np.float64) for key in self.infos])

    def table(self, policy: Floats) -> Table:
        """The table of a policy."""
        return {key: tuple(map(float, policy[at : at + count])) for key, (at, count) in self.infos.items()}

    def normalised(self, weights: Floats) -> Floats:
        """Probabilities proportional to `weights` within each information state; uniform where all weights are zero."""
        totals = np.bincount(self.info_of_slot, weights)[self.info_of_slot]
        counts = np.bincount(self.info_of_slot)[self.info_of_slot]
        return np.where(totals > 0, weights / np.where(totals > 0, totals, 1), 1 / counts)

    def reaches(self, policy: Floats, role: int) -> tuple[list[Floats], list[Floats]]:
        """Per level above each: the probability that `role`, and that chance and the other role, play to its nodes."""
        own: list[Floats] = [np.ones(len(self.chance))]
        others: list[Floats] = [self.chance]
        for level in self.levels:
            taken, mine = policy[level.slot], level.role == role
            own.append(own[-1][level.parent] * np.where(mine, taken, 1))
            others.append(others[-1][level.parent] * np.where(mine, 1, taken))
        return own, others

    def value(self, policy: Floats) -> float:
        """The expected payoff of role 0 if both roles play `policy`."""
        own, others = self.reaches(policy, 0)
        return float(sum((own[i + 1] * others[i + 1] * level.payoff).sum() for i, level in enumerate(self.levels)))

    def best_response(self, policy: Floats, role: int) -> BestResponse:
        """A best response of `role` to `policy`; of actions that are equally good it takes the first.

        The action may depend on the depth as well as on the information state: with perfect recall that is no
        difference, and a position of a game without hidden information has the same best actions at every depth.
        """
        _, others = self.reaches(policy, role)
        weights: list[Floats] = []  # per level, from the deepest: the probability that each node is chosen
        chosen: Integers = self.first_slot.copy()
        values: Floats = np.zeros(len(self.levels[-1].slot))
        for depth in range(len(self.levels) - 1, -1, -1):
            level = self.levels[depth]
            values = values + (level.payoff if role == 0 else -level.payoff)
            own = level.role == role
            infos = np.unique(self.info_of_slot[level.slot[own]])
            gains = np.full(self.num_slots, -np.inf)
            gains[level.slot[own]] = 0.0
            np.add.at(gains, level.slot[own], others[depth][level.parent[own]] * values[own])
            best = np.maximum.reduceat(gains, self.first_slot)
            is_best = np.flatnonzero(gains == best[self.info_of_slot])
            chosen[infos] = is_best[np.unique(self.info_of_slot[is_best], return_index=True)[1]][infos]
            weights.append(np.where(own, chosen[self.info_of_slot[level.slot]] == level.slot, policy[level.slot]))
            values = sums(level.parent, weights[-1] * values, len(others[depth]))
        reach, reached = self.chance, np.zeros(len(self.infos))
        for level, weight in zip(self.levels, reversed(weights), strict=True):
            reach = reach[level.parent] * weight
            np.add.at(reached, self.info_of_slot[level.slot], reach)
        numbered = [(number, info) for number, (owner, info) in enumerate(self.infos) if owner == role]
        return BestResponse(
            value=float((self.chance * values).sum()),
            actions={info: int(chosen[number] - self.first_slot[number]) for number, info in numbered},
            reach={info: float(reached[number]) for number, info in numbered},
        )


def sums(index: Integers, values: Floats, size: int) -> Floats:
    """The sum of the values of each index."""
    return np.bincount(index, values, size).astype(np.float64, copy=False)


@cache
def game_tree(game_id: str) -> GameTree:
    """The tree of a game. Raises ValueError for a game that cannot be enumerated."""
    return GameTree(list(exact_game(game_id).deals()))
