"""The mixture of policies in Kuhn poker."""

import pytest

from spiral.evaluation.exploitability import exact_strength
from spiral.evaluation.mixture import mixture
from spiral.game.perfect import perfect_policy
from spiral.game.solve import decision_points
from spiral.game.tree import Table, game_tree
from tests.unit.test_exploitability import drawn, uniform


def value_against(own: Table, other: Table, role: int) -> float:
    """What `own` wins in `role` against `other`."""
    tree = game_tree("kuhn_poker")
    value = tree.value(tree.policy({key: (own if key[0] == role else other)[key] for key in tree.infos}))
    return value if role == 0 else -value


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("seed", [1, 2])
def test_against_anybody_a_mixture_wins_the_mean_of_what_its_policies_win(role: int, seed: int) -> None:
    policies = [drawn("kuhn_poker", 10), drawn("kuhn_poker", 11), uniform("kuhn_poker")]
    mixed, other = mixture("kuhn_poker", policies), drawn("kuhn_poker", seed)
    mean = sum(value_against(policy, other, role) for policy in policies) / 3
    assert value_against(mixed, other, role) == pytest.approx(mean, abs=1e-9)


def test_the_mixture_of_one_policy_is_that_policy() -> None:
    table = drawn("kuhn_poker", 10)
    mixed = mixture("kuhn_poker", [table, table])
    assert [mixed[key] for key in table] == [pytest.approx(policy, abs=1e-9) for policy in table.values()]


def test_a_mixture_is_exploited_at_most_as_much_as_its_policies_on_average() -> None:
    policies = [drawn("kuhn_poker", 10), perfect_policy("kuhn_poker")]
    points = decision_points("kuhn_poker")
    each = [exact_strength("kuhn_poker", points, table).nash_conv for table in policies]
    assert exact_strength("kuhn_poker", points, mixture("kuhn_poker", policies)).nash_conv <= sum(each) / 2
