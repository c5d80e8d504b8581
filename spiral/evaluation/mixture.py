"""The mixture of several policies: one of them is drawn before each match, and plays it to the end."""

from collections.abc import Sequence

import numpy as np

from spiral.game.tree import Floats, Table, game_tree


def mixture(game_id: str, tables: Sequence[Table]) -> Table:
    """The one policy that plays like the mixture of `tables`, each with the same probability (Kuhn 1953).

    In an information state it weighs each policy by the probability that the policy plays to that state; where none of
    them does, it is uniform.
    """
    tree = game_tree(game_id)
    weights: Floats = np.zeros(tree.num_slots)
    for table in tables:
        policy = tree.policy(table)
        reach: Floats = np.zeros(tree.num_slots)
        for role in (0, 1):
            own, _ = tree.reaches(policy, role)
            for depth, level in enumerate(tree.levels):
                mine = level.role == role
                reach[level.slot[mine]] = own[depth][level.parent[mine]]
        weights += reach * policy
    return tree.table(tree.normalised(weights))
