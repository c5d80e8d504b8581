"""Perfect play in games that can be enumerated: minimax under perfect information, otherwise CFR+."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from spiral.game.protocol import ExactGame
from spiral.game.solve import exact_game

Table = dict[tuple[int, str], tuple[float, ...]]
"""(role, information state) -> one probability per legal action."""


@cache
def perfect_policy(game_id: str) -> Table:
    """An equilibrium policy. Raises ValueError for a game that cannot be enumerated.

    With perfect information it is the minimax policy, with equal probabilities for all best actions. Otherwise it is
    the average policy of CFR+ (Tammelin 2014), whose NashConv converges to 0.
    """
    deals = list(exact_game(game_id).deals())
    table: Table = {}
    if len(deals) == 1:
        try:
            _minimax(deals[0][1], {}, table)
            return table
        except _HiddenInformation:
            pass
    return _Tree(deals).solve()


class _HiddenInformation(Exception):
    """The two roles have different information states."""


def _minimax(game: ExactGame, values: dict[str, float], table: Table) -> float:
    """The value of the position for role 0. Adds the best actions of every position reached to `table`."""
    role = game.role_to_move()
    if role is None:
        return game.returns()[0]
    position = game.info_state(role)
    if position != game.info_state(1 - role):
        raise _HiddenInformation
    if position not in values:
        children = [_child(game, action) for action in game.legal_actions() or ()]
        outcomes = [_minimax(child, values, table) for child in children]
        best = max(outcomes) if role == 0 else min(outcomes)
        count = outcomes.count(best)
        table[role, position] = tuple((outcome == best) / count for outcome in outcomes)
        values[position] = best
    return values[position]


def _child(game: ExactGame, action: str) -> ExactGame:
    child = game.clone()
    child.step(action)
    return child


@dataclass(slots=True)
class _Level:
    """The nodes at one depth of the tree, as parallel arrays."""

    parent: np.ndarray  # index of each node's parent in the level above
    slot: np.ndarray  # (information state, action) that leads to each node, numbered over the whole game
    role: np.ndarray  # role that takes this action
    payoff: np.ndarray  # of role 0 in terminal nodes, else 0


class _Tree:
    """The whole game tree, level by level. A slot is one action in one information state."""

    def __init__(self, deals: list[tuple[float, ExactGame]]) -> None:
        self.infos: dict[tuple[int, str], tuple[int, int]] = {}  # (role, information state) -> first slot, actions
        self.levels: list[_Level] = []
        self.chance = np.array([probability for probability, _ in deals])
        self.num_slots = 0
        games = [game for _, game in deals]
        while games:
            games = self._grow(games)
        self.info_of_slot = np.concatenate(
            [np.full(count, number) for number, (_, count) in enumerate(self.infos.values())]
        )
        self.role_of_info = np.array([role for role, _ in self.infos])

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
                child = _child(game, action)
                payoff = child.returns()[0] if child.role_to_move() is None else 0.0
                rows.append((place, first + number, role, payoff))
                children.append(child)
        if rows:
            parent, slot, role_, payoff_ = zip(*rows, strict=True)
            self.levels.append(_Level(np.array(parent), np.array(slot), np.array(role_), np.array(payoff_)))
        return children

    def solve(self) -> Table:
        """CFR+ with alternating updates and linear averaging; fewer iterations for larger games, to take seconds."""
        num_nodes = sum(len(level.slot) for level in self.levels)
        regrets, average = np.zeros(self.num_slots), np.zeros(self.num_slots)
        for iteration in range(1, min(2000, 60_000_000 // num_nodes) + 1):
            for role in (0, 1):
                policy = self._normalised(regrets)
                gains, reach = self._walk(policy, role)
                mine = self.role_of_info[self.info_of_slot] == role
                baseline = np.bincount(self.info_of_slot, policy * gains)[self.info_of_slot]
                regrets = np.where(mine, np.maximum(regrets + gains - baseline, 0), regrets)
                average += np.where(mine, iteration * reach * policy, 0)
        policy = self._normalised(average)
        return {key: tuple(map(float, policy[at : at + count])) for key, (at, count) in self.infos.items()}

    def _normalised(self, weights: np.ndarray) -> np.ndarray:
        """Probabilities proportional to `weights` within each information state; uniform where all weights are zero."""
        totals = np.bincount(self.info_of_slot, weights)[self.info_of_slot]
        counts = np.bincount(self.info_of_slot)[self.info_of_slot]
        return np.where(totals > 0, weights / np.where(totals > 0, totals, 1), 1 / counts)

    def _walk(self, policy: np.ndarray, role: int) -> tuple[np.ndarray, np.ndarray]:
        """Per slot: its counterfactual value for `role`, and the probability that `role` plays to its state."""
        own, others = [np.ones(len(self.chance))], [self.chance]
        reach = np.zeros(self.num_slots)
        for level in self.levels:  # down: reach probabilities
            taken, mine = policy[level.slot], level.role == role
            reach[level.slot] = own[-1][level.parent]  # equal for all nodes of an information state (perfect recall)
            own.append(own[-1][level.parent] * np.where(mine, taken, 1))
            others.append(others[-1][level.parent] * np.where(mine, 1, taken))
        gains = np.zeros(self.num_slots)
        values: np.ndarray = np.zeros(len(self.levels[-1].slot))
        for depth in range(len(self.levels) - 1, -1, -1):  # up: values for `role`
            level = self.levels[depth]
            values = values + (level.payoff if role == 0 else -level.payoff)
            np.add.at(gains, level.slot, np.where(level.role == role, others[depth][level.parent] * values, 0))
            values = np.bincount(level.parent, policy[level.slot] * values, len(own[depth]))
        return gains, reach
