"""Perfect play in games that can be enumerated: minimax under perfect information, otherwise CFR+."""

from functools import cache

import numpy as np

from spiral.game.protocol import ExactGame
from spiral.game.solve import exact_game
from spiral.game.tree import Floats, GameTree, Table, game_tree, sums


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
    return _solve(game_tree(game_id))


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


def _solve(tree: GameTree) -> Table:
    """CFR+ with alternating updates and linear averaging; fewer iterations for larger games, to take seconds."""
    regrets, average = np.zeros(tree.num_slots), np.zeros(tree.num_slots)
    for iteration in range(1, min(2000, 60_000_000 // tree.num_nodes) + 1):
        for role in (0, 1):
            policy = tree.normalised(regrets)
            gains, reach = _walk(tree, policy, role)
            mine = tree.role_of_info[tree.info_of_slot] == role
            baseline = np.bincount(tree.info_of_slot, policy * gains)[tree.info_of_slot]
            regrets = np.where(mine, np.maximum(regrets + gains - baseline, 0), regrets)
            average += np.where(mine, iteration * reach * policy, 0)
    return tree.table(tree.normalised(average))


def _walk(tree: GameTree, policy: Floats, role: int) -> tuple[Floats, Floats]:
    """Per slot: its counterfactual value for `role`, and the probability that `role` plays to its state."""
    own, others = tree.reaches(policy, role)
    reach = np.zeros(tree.num_slots)
    for depth, level in enumerate(tree.levels):  # equal for all nodes of an information state (perfect recall)
        reach[level.slot] = own[depth][level.parent]
    gains = np.zeros(tree.num_slots)
    values: Floats = np.zeros(len(tree.levels[-1].slot))
    for depth in range(len(tree.levels) - 1, -1, -1):
        level = tree.levels[depth]
        values = values + (level.payoff if role == 0 else -level.payoff)
        np.add.at(gains, level.slot, np.where(level.role == role, others[depth][level.parent] * values, 0))
        values = sums(level.parent, policy[level.slot] * values, len(own[depth]))
    return gains, reach
