"""The advantages `prompt` and `deal`: hand-computed numbers, and by enumeration the gradient in Kuhn poker."""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from spiral.config import GameChoice, LearnerConfig
from spiral.league.schedule import Schedule
from spiral.learn.baselines import RoleBaselines
from spiral.learn.leave_one_out import DealBaselines, PromptBaselines
from spiral.types import EpisodeHeader
from tests import builders
from tests.builders import turn_header
from tests.kuhn_hands import add_gradient, deals, exact_gradient

ALPHA = 0.5


def config(**options: Any) -> LearnerConfig:
    return LearnerConfig(**{"baseline_decay": ALPHA, "baseline_prior": 2.0, "prompt_decay": 0.5, **options})


def header(
    match_id: int, return0: float, prompts: Sequence[int] = (7, 8), *, seed: int = 1, players: Any = None
) -> EpisodeHeader:
    """An episode whose turns, of roles 0, 1, 0, ..., have prompts with these hashes."""
    turns = [turn_header(number % 2, prompt_hash=prompt) for number, prompt in enumerate(prompts)]
    players = players or ("policy", "policy")
    return builders.header(match_id, turns, (return0, -return0), seed=seed, players=players)


# --- prompt


def test_a_prompt_baseline_is_the_mean_of_the_other_returns_shrunk_to_that_of_rae() -> None:
    # RAE of role 0: A1 = 0.5 * 1, then b = 0.5; A2 = 0.5 * (-1 - 0.5) = -0.75, whose baseline is 0.5.
    # First: the other return is -1: b = (-1 + 2 * 0) / 3 = -1/3, A = 0.5 * (1 + 1/3) = 2/3.
    # Second: b = (1 + 2 * 0.5) / 3 = 2/3, A = 0.5 * (-1 - 2/3) = -5/6. Role 1 mirrors it.
    scored = PromptBaselines(config()).score([header(0, 1.0), header(1, -1.0)])
    assert scored == [pytest.approx([2 / 3, -2 / 3]), pytest.approx([-5 / 6, 5 / 6])]


def test_returns_of_earlier_steps_fade() -> None:
    # S = 0.5 * (1 - 1 - 1) = -0.5 and N = 0.5 * 3 = 1.5. RAE's baseline: 0.5, -0.25, -0.625.
    # b = (-0.5 + 2 * -0.625) / (1.5 + 2) = -0.5, A = 0.5 * (1 + 0.5) = 0.75.
    baselines = PromptBaselines(config())
    baselines.score([header(0, 1.0), header(1, -1.0), header(2, -1.0)])
    assert baselines.score([header(3, 1.0)]) == [pytest.approx([0.75, -0.75])]


def test_where_prompts_never_repeat_prompt_is_rae() -> None:
    steps = [[header(4 * step + i, (-1.0) ** (i // 2), (100 * step + i, 50 + i)) for i in range(4)] for step in (1, 2)]
    rae, prompt = RoleBaselines(config()), PromptBaselines(config(prompt_decay=0.0))
    for step in steps:
        assert prompt.score(step) == rae.score(step)
    assert prompt.metrics() == rae.metrics() | {"train/prompts": 0}


def test_an_episode_that_sees_a_prompt_twice_is_no_baseline_for_itself() -> None:
    scored = PromptBaselines(config()).score([header(0, 1.0, (7, 8, 7))])
    assert scored == [[0.5, -0.5, 0.5]]  # RAE's, because no other episode saw them


def test_the_same_prompt_in_another_role_or_game_has_a_baseline_of_its_own() -> None:
    other_game = replace(header(1, 1.0), match=builders.match(1, "nim"))
    scored = PromptBaselines(config()).score([header(0, 1.0, (7, 7)), other_game])
    assert scored == [[0.5, -0.5], [0.5, -0.5]]


@pytest.mark.parametrize("factory", [PromptBaselines, DealBaselines])
def test_turns_of_other_players_get_no_advantage_and_no_baseline(factory: Any) -> None:
    players = ("policy", "random")
    first, second = factory(config()).score([header(i, (1.0, -1.0)[i], (7, 0), players=players) for i in (0, 1)])
    assert first[0] > 0 > second[0]
    assert (first[1], second[1]) == (0.0, 0.0)


def test_forgotten_prompts_leave_the_table() -> None:
    baselines = PromptBaselines(config(prompt_decay=0.5))
    baselines.score([header(0, 1.0, (7, 8))])
    numbers = []
    for step in range(1, 5):
        numbers.append(len(baselines._seen))
        baselines.score([header(step, 1.0, (100 + step,))])
    assert numbers == [2, 3, 4, 3]  # N of the first two: 0.5, 0.25, 0.125, then 0.0625


def test_restored_prompts_continue_where_they_were_saved() -> None:
    rng = random.Random(0)
    hashes = [0, 1, 2**63, 2**64 - 1]
    steps = [[header(8 * s + i, rng.choice((-1, 0, 1)), rng.choices(hashes, k=3)) for i in range(8)] for s in range(6)]
    saved, restored = PromptBaselines(config()), PromptBaselines(config())
    for step in steps[:3]:
        saved.score(step)
    restored.load_state_dict(saved.state_dict())
    for step in steps[3:]:
        assert restored.score(step) == saved.score(step)


# --- deal


def test_a_deal_baseline_is_the_mean_of_the_same_node_shrunk_to_that_of_the_deal() -> None:
    # Role 0 of deal 1 returns 1, -1 and -1, the first two at the same first prompt. The last match is of another deal.
    step = [header(0, 1.0, (7,)), header(1, -1.0, (7,)), header(2, -1.0, (9,)), header(3, 1.0, (7,), seed=2)]
    scored = DealBaselines(config()).score(step)
    # RAE's baselines before each: 0, 0.5, -0.25 and -0.625.
    # First: the deal has (-2 + 2 * 0) / 4 = -0.5, the node (-1 + 2 * -0.5) / 3 = -2/3: A = 0.5 * (1 + 2/3).
    # Second: the deal has (0 + 2 * 0.5) / 4 = 0.25, the node (1 + 2 * 0.25) / 3 = 0.5: A = 0.5 * -1.5.
    # Third: the deal has (0 + 2 * -0.25) / 4 = -0.125, the node nothing: A = 0.5 * -0.875. Fourth: RAE, 0.5 * 1.625.
    assert [advantage for (advantage,) in scored] == pytest.approx([5 / 6, -0.75, -0.4375, 0.8125])


def test_a_node_is_the_whole_path_to_it() -> None:
    """The second prompts are equal, but what the other role saw before was not."""
    step = [header(0, 1.0, (7, 5)), header(1, -1.0, (8, 5)), header(2, -1.0, (8, 5))]
    scored = DealBaselines(config(baseline_prior=0.0)).score(step)
    assert [advantage for _, advantage in scored] == pytest.approx([0.5 * (-1 - 1), 0.0, 0.0])


def test_without_repeated_deals_deal_is_rae() -> None:
    step = [header(i, (-1.0) ** (i // 2), seed=i) for i in range(8)]
    rae, deal = RoleBaselines(config()), DealBaselines(config())
    assert deal.score(step) == rae.score(step)
    assert deal.metrics() == rae.metrics()


def test_matches_of_a_deal_follow_one_another() -> None:
    games = (GameChoice(id="kuhn_poker"), GameChoice(id="nim"))
    plain, schedule = Schedule(5, games), Schedule(5, games, deals=3)
    for k in range(30):
        match, alike = schedule.match(k), plain.match(k // 3)
        assert (match.id, match.game, match.seed) == (k, alike.game, alike.seed)


# --- the expected gradient, by enumeration of Kuhn poker


@pytest.mark.parametrize(
    ("factory", "same_deal"),
    [(RoleBaselines, False), (PromptBaselines, False), (DealBaselines, False), (DealBaselines, True)],
)
def test_the_expected_gradient_is_alpha_times_that_of_the_return(factory: Any, same_deal: bool) -> None:
    """A step of two hands, with the state that an earlier step has left, in expectation over all of them."""
    hands = deals()
    exact = exact_gradient(hands)
    assert max(map(abs, exact.values())) > 0.01

    earlier = factory(config())
    earlier.score([hand.header for deal in hands for hand in deal][::3])
    state = earlier.state_dict()
    expected: dict[tuple[int, int], float] = {}
    total = 0.0
    for first_deal, second_deal in itertools.product(hands, hands):
        if same_deal and first_deal is not second_deal:
            continue
        for pair in itertools.product(first_deal, second_deal):
            estimator = factory(config())
            estimator.load_state_dict(state)
            advantages = estimator.score([hand.header for hand in pair])
            weight = math.prod(hand.probability for hand in pair) / (6 if same_deal else 36)
            total += weight
            for hand, of_hand in zip(pair, advantages, strict=True):
                add_gradient(expected, hand, of_hand, weight / 2)
    assert total == pytest.approx(1.0)
    assert expected == pytest.approx({key: ALPHA * value for key, value in exact.items()}, abs=1e-12)
