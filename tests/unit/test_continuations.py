"""The advantage `branch`: hand-computed numbers, and by enumeration the gradient in Kuhn poker."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from spiral.config import LearnerConfig, UserError, load_config
from spiral.learn.baselines import RoleBaselines
from spiral.learn.continuations import BranchBaselines
from spiral.types import EpisodeHeader
from tests import builders
from tests.builders import turn_header
from tests.kuhn_hands import Outcome, add_gradient, deals, exact_gradient

ALPHA = 0.5


def config(**options: Any) -> LearnerConfig:
    return LearnerConfig(**{"baseline_decay": ALPHA, "baseline_prior": 2.0, **options})


def header(return0: float, *turns: tuple[int, Sequence[float]], players: Any = None, refused: int = 0) -> EpisodeHeader:
    """An episode. `turns` are (role, continuations), of which the first so many answers are `refused`."""
    told = [
        replace(turn_header(role, legal=number >= refused), continuations=tuple(returns))
        for number, (role, returns) in enumerate(turns)
    ]
    return builders.header(0, told, (return0, -return0), players=players or ("policy", "policy"))


def test_the_credit_of_a_move_is_the_value_after_it_less_that_before() -> None:
    # No baseline yet, so b_role = 0. First move: V = (1 + 0) / 2 of m = 2, b = 2 * 0.5 / 4 = 0.25;
    # Q = (1 + 1 + 1) / 3 = 1: A = 0.5 * 0.75. Second move, of role 1: b = (-1 - 1) / 4 = -0.5, Q = -1: A = 0.5 * -0.5.
    scored = BranchBaselines(config()).score([header(1.0, (0, (1.0, 0.0)), (1, (1.0, 1.0)))])
    assert scored == [pytest.approx([0.375, -0.25])]


def test_the_baseline_is_shrunk_to_that_of_the_role() -> None:
    # After the first match role 0 has b = 0.5. Then V = -1 of m = 1: b = (-1 + 2 * 0.5) / 3 = 0, Q = -1: A = -0.5.
    baselines = BranchBaselines(config())
    baselines.score([header(1.0, (0, ()))])
    assert baselines.score([header(-1.0, (0, (-1.0,)))]) == [pytest.approx([-0.5])]


def test_an_answer_that_is_refused_has_the_return_of_the_match_and_the_next_one_what_follows() -> None:
    # Role 0 is refused once: (1,) is before both of its answers, (-1,) before the move of role 1.
    turns = ((0, (1.0,)), (0, (1.0,)), (1, (-1.0,)))
    scored = BranchBaselines(config(baseline_prior=0.0)).score([header(-1.0, *turns, refused=1)])
    # b = 1 for both. Q = R = -1 for the first, (-1 - 1) / 2 for the second; role 1: b = 1, Q = 1.
    assert scored == [pytest.approx([-1.0, -1.0, 0.0])]
    kept = BranchBaselines(config(baseline_prior=0.0)).score([header(0.0, *turns, refused=1)])
    # Q = 0 for the first, (0 - 1) / 2 for the second; role 1: b = 1, Q = 0.
    assert kept == [pytest.approx([-0.5, -0.75, -0.5])]


def test_moves_of_other_players_get_no_advantage_but_tell_the_value_after_one_of_the_policy() -> None:
    turns = ((0, (0.0,)), (1, (1.0,)))
    scored = BranchBaselines(config(baseline_prior=0.0)).score([header(0.0, *turns, players=("policy", "random"))])
    assert scored == [pytest.approx([0.25, 0.0])]


def test_without_continuations_branch_is_rae() -> None:
    step = [header((-1.0) ** (i // 2), (0, ()), (1, ())) for i in range(8)]
    assert BranchBaselines(config()).score(step) == RoleBaselines(config()).score(step)


def test_branch_needs_continuations() -> None:
    with pytest.raises(UserError, match="set rollout.branches to 1 or more"):
        load_config("smoke", ["learner.advantage=branch"])
    assert load_config("smoke", ["learner.advantage=branch", "rollout.branches=1"]).rollout.branches == 1


def conditional(deal: Sequence[Outcome], hand: Outcome, move: int) -> list[tuple[float, float]]:
    """(probability, return of role 0) of each continuation of a hand from before one of its moves."""
    same = [other for other in deal if other.choices[:move] == hand.choices[:move]]
    total = sum(other.probability for other in same)
    return [(other.probability / total, other.header.returns[0]) for other in same]


def test_the_expected_gradient_is_alpha_times_that_of_the_return() -> None:
    """A hand with one continuation from before each move, after an earlier step, in expectation over all of them."""
    hands = deals()
    exact = exact_gradient(hands)
    earlier = BranchBaselines(config())
    earlier.score([hand.header for deal in hands for hand in deal][::3])
    state = earlier.state_dict()
    expected: dict[tuple[int, int], float] = {}
    total = 0.0
    for hand, siblings in ((hand, deal) for deal in hands for hand in deal):
        continuations = [conditional(siblings, hand, move) for move in range(len(hand.choices))]
        for ended in itertools.product(*continuations):
            weight = hand.probability / 6 * math.prod(probability for probability, _ in ended)
            turns = [replace(t, continuations=(value,)) for t, (_, value) in zip(hand.header.turns, ended, strict=True)]
            estimator = BranchBaselines(config())
            estimator.load_state_dict(state)
            (advantages,) = estimator.score([replace(hand.header, turns=tuple(turns))])
            add_gradient(expected, hand, advantages, weight)
            total += weight
    assert total == pytest.approx(1.0)
    assert expected == pytest.approx({key: ALPHA * value for key, value in exact.items()}, abs=1e-12)
