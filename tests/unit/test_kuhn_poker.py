"""Kuhn poker: hand-computed payoffs, hidden cards, and the exact solver against known values."""

import itertools
import math

import pytest

from spiral.game import ExactGame, Game, IllegalAction, make
from spiral.game.solve import Policy, decision_points, nash_conv
from spiral_games.kuhn_poker import KuhnPoker

J, Q, K = 0, 1, 2
NAMES = ("jack", "queen", "king")


def hand(cards: tuple[int, int], *actions: str) -> KuhnPoker:
    game = KuhnPoker(0)
    game.cards = cards
    for action in actions:
        game.step(action)
    return game


def betting(bet: dict[str, float], call: dict[str, float]) -> Policy:
    """A policy from the probability of betting, and of calling, by `role` and first letter of the card, as in `0j`."""

    def policy(role: int, info_state: str, legal_actions: tuple[str, ...]) -> tuple[float, float]:
        assert legal_actions in (("check", "bet"), ("fold", "call"))
        probability = (bet if legal_actions == ("check", "bet") else call)[f"{role}{info_state[0]}"]
        return 1 - probability, probability

    return policy


def everywhere(probability: float) -> dict[str, float]:
    return dict.fromkeys(("0j", "0q", "0k", "1j", "1q", "1k"), probability)


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "actions", "returns"),
    [
        ((K, J), ("check", "check"), (1.0, -1.0)),
        ((J, Q), ("check", "check"), (-1.0, 1.0)),
        ((K, J), ("check", "bet", "fold"), (-1.0, 1.0)),
        ((J, K), ("check", "bet", "fold"), (-1.0, 1.0)),
        ((K, Q), ("check", "bet", "call"), (2.0, -2.0)),
        ((Q, K), ("check", "bet", "call"), (-2.0, 2.0)),
        ((J, K), ("bet", "fold"), (1.0, -1.0)),
        ((K, J), ("bet", "fold"), (1.0, -1.0)),
        ((Q, J), ("bet", "call"), (2.0, -2.0)),
        ((J, Q), ("bet", "call"), (-2.0, 2.0)),
    ],
)
def test_payoffs_of_all_endings(cards: tuple[int, int], actions: tuple[str, ...], returns: tuple[float, float]) -> None:
    game = hand(cards, *actions)
    assert game.role_to_move() is None
    assert game.legal_actions() == ()
    assert game.returns() == returns


@pytest.mark.parametrize(
    ("actions", "role", "legal"),
    [
        ((), 0, ("check", "bet")),
        (("check",), 1, ("check", "bet")),
        (("bet",), 1, ("fold", "call")),
        (("check", "bet"), 0, ("fold", "call")),
    ],
)
def test_who_moves_and_what_is_legal(actions: tuple[str, ...], role: int, legal: tuple[str, ...]) -> None:
    game = hand((K, Q), *actions)
    assert game.role_to_move() == role
    assert game.legal_actions() == legal


def test_it_is_an_exact_game() -> None:
    game = make("kuhn_poker", 0)
    assert isinstance(game, Game)
    assert isinstance(game, ExactGame)
    assert game.spec.exact
    assert game.spec.max_return == 2.0


@pytest.mark.parametrize("cards", list(itertools.permutations((J, Q, K), 2)))
def test_a_view_shows_only_the_roles_own_card(cards: tuple[int, int]) -> None:
    game = hand(cards, "check", "bet")
    for role in (0, 1):
        shown = [name for name in NAMES if name in game.observe(role)]
        assert shown == [NAMES[cards[role]]]
        assert [name for name in NAMES if name in game.info_state(role)] == shown


def test_a_view_shows_the_betting_so_far() -> None:
    assert "player 0 checks, player 1 bets" in hand((K, J), "check", "bet").observe(0)
    assert hand((K, J)).observe(0) == "You are player 0 with the king. Betting: none yet."


def test_a_view_is_pure() -> None:
    game = hand((K, J), "check")
    assert game.observe(1) == game.observe(1)
    assert (game.history, game.cards) == (("check",), (K, J))


@pytest.mark.parametrize("action", ["call", "Check", "", "check ", "all in"])
def test_an_illegal_action_raises_and_changes_nothing(action: str) -> None:
    game = hand((K, J))
    with pytest.raises(IllegalAction, match="is not one of: check, bet"):
        game.step(action)
    assert (game.history, game.cards, game.role_to_move()) == ((), (K, J), 0)


def test_nothing_is_legal_once_the_hand_is_over() -> None:
    with pytest.raises(IllegalAction, match="the match is over"):
        hand((K, J), "bet", "fold").step("check")


def test_a_clone_is_independent() -> None:
    game = hand((K, J), "check")
    clone = game.clone()
    assert (clone.history, clone.cards) == (("check",), (K, J))
    clone.step("bet")
    assert (game.history, clone.history) == (("check",), ("check", "bet"))


def test_the_same_seed_deals_the_same_cards() -> None:
    assert [KuhnPoker(seed).cards for seed in range(20)] == [KuhnPoker(seed).cards for seed in range(20)]


def test_seeds_deal_every_hand() -> None:
    assert {KuhnPoker(seed).cards for seed in range(100)} == set(itertools.permutations((J, Q, K), 2))


def test_the_six_deals_are_equally_likely() -> None:
    deals = list(KuhnPoker(0).deals())
    assert sorted(game.cards for _, game in deals) == [(J, Q), (J, K), (Q, J), (Q, K), (K, J), (K, Q)]
    assert [probability for probability, _ in deals] == [1 / 6] * 6
    assert [game.history for _, game in deals] == [()] * 6


# --- the solver ------------------------------------------------------------------------------------------------------


def test_there_are_twelve_decision_points() -> None:
    points = decision_points("kuhn_poker")
    assert len({(point.role, point.info_state) for point in points}) == len(points) == 12
    assert sum(point.role == 0 for point in points) == 6


def test_a_decision_point_shows_what_the_role_sees() -> None:
    (point,) = [p for p in decision_points("kuhn_poker") if (p.role, p.info_state) == (1, "queen:bet")]
    assert point.observation == "You are player 1 with the queen. Betting: player 0 bets."
    assert point.legal_actions == ("fold", "call")


def test_nash_conv_of_uniform_play() -> None:
    assert nash_conv("kuhn_poker", betting(everywhere(0.5), everywhere(0.5))) == pytest.approx(11 / 12, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1 / 3])
def test_nash_conv_of_kuhns_equilibria_is_zero(alpha: float) -> None:
    # Kuhn 1950: role 0 bets the jack with probability alpha, and the king with 3 alpha.
    bet = {"0j": alpha, "0q": 0.0, "0k": 3 * alpha, "1j": 1 / 3, "1q": 0.0, "1k": 1.0}
    call = {"0j": 0.0, "0q": alpha + 1 / 3, "0k": 1.0, "1j": 0.0, "1q": 1 / 3, "1k": 1.0}
    assert nash_conv("kuhn_poker", betting(bet, call)) == pytest.approx(0.0, abs=1e-9)


def test_nash_conv_of_always_betting_and_calling() -> None:
    # Play is worth 0 to both. A best response loses 1 with the jack (folds), is even with the queen, and wins 2 with
    # the king: 1/3 in either role.
    assert nash_conv("kuhn_poker", betting(everywhere(1.0), everywhere(1.0))) == pytest.approx(2 / 3, abs=1e-9)


def test_nash_conv_of_always_checking_and_folding() -> None:
    # Play is worth 0 to both. A best response bets every card and wins the ante every time, in either role.
    assert nash_conv("kuhn_poker", betting(everywhere(0.0), everywhere(0.0))) == pytest.approx(2.0, abs=1e-9)


def test_nash_conv_of_always_betting_and_never_calling() -> None:
    # Role 0 bets and role 1 folds: worth +1 to role 0. Role 0 cannot do better than 1 with J or Q; with K it checks,
    # is bet into, and calls: 2. In all (1 + 1 + 2) / 3 = 4/3. Role 1 against bets: J folds -1, Q calls 0, K calls +2:
    # 1/3, where play gives -1. Together (4/3 - 1) + (1/3 + 1) = 5/3.
    assert nash_conv("kuhn_poker", betting(everywhere(1.0), everywhere(0.0))) == pytest.approx(5 / 3, abs=1e-9)


@pytest.mark.parametrize(
    "probabilities", [(1.0,), (0.2, 0.3, 0.5), (), (0.5, 0.4), (1.5, -0.5), (math.nan, 0.5), (math.nan, math.nan)]
)
def test_a_policy_that_returns_no_distribution_is_refused(probabilities: tuple[float, ...]) -> None:
    with pytest.raises(
        ValueError, match="policy in kuhn_poker, role 0, 'jack:'.*expected 2 probabilities that sum to 1"
    ):
        nash_conv("kuhn_poker", lambda role, info_state, legal_actions: probabilities)


def test_a_game_that_cannot_be_enumerated_is_refused() -> None:
    with pytest.raises(ValueError, match="'textarena/TicTacToe-v0' cannot be enumerated"):
        nash_conv("textarena/TicTacToe-v0", lambda role, info_state, legal_actions: (1.0,))
