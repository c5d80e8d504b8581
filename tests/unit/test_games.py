"""The project's own games against hand-played matches."""

import pytest

from spiral.game import IllegalAction, game_ids, make
from spiral.game.conformance import check
from spiral_games.jotto import WORDS, Jotto
from spiral_games.leduc_poker import LeducPoker
from spiral_games.liars_dice import LiarsDice
from spiral_games.nim import Nim
from spiral_games.simple_negotiation import SimpleNegotiation

J, Q, K = 0, 1, 2


def test_every_registered_game_is_sound() -> None:
    assert check(game_ids()) == {game_id: [] for game_id in game_ids()}


# --- Leduc poker


def leduc(cards: tuple[int, int, int], *actions: str) -> LeducPoker:
    game = LeducPoker(0)
    game.cards = cards
    for action in actions:
        game.step(action)
    return game


@pytest.mark.parametrize(
    ("cards", "actions", "returns"),
    [
        ((K, Q, J), ("check", "check", "check", "check"), (1.0, -1.0)),
        ((K, Q, Q), ("check", "check", "check", "check"), (-1.0, 1.0)),  # a pair beats a king
        ((K, K, Q), ("bet", "call", "bet", "call"), (0.0, 0.0)),
        ((J, K, J), ("bet", "call", "bet", "call"), (7.0, -7.0)),
        ((J, K, J), ("bet", "raise", "call", "bet", "raise", "call"), (13.0, -13.0)),
        ((J, K, J), ("bet", "raise", "fold"), (-3.0, 3.0)),
        ((J, K, J), ("check", "bet", "fold"), (-1.0, 1.0)),
        ((J, K, J), ("check", "bet", "call", "bet", "fold"), (3.0, -3.0)),
    ],
)
def test_leduc_payoffs(cards: tuple[int, int, int], actions: tuple[str, ...], returns: tuple[float, float]) -> None:
    game = leduc(cards, *actions)
    assert game.role_to_move() is None
    assert game.returns() == returns


def test_leduc_allows_two_raises_a_round() -> None:
    assert leduc((K, Q, J), "bet").legal_actions() == ("fold", "call", "raise")
    assert leduc((K, Q, J), "bet", "raise").legal_actions() == ("fold", "call")
    assert leduc((K, Q, J), "bet", "raise", "call").legal_actions() == ("check", "bet")


def test_leduc_shows_the_public_card_in_the_second_round_only() -> None:
    game = leduc((K, Q, J), "check")
    assert "Public card: not shown yet." in game.observe(0)
    game.step("check")
    assert "Public card: jack." in game.observe(0)


# --- liar's dice


@pytest.mark.parametrize(
    ("dice", "bids", "returns"),
    [
        ((3, 5), ("1x5",), (1.0, -1.0)),
        ((3, 5), ("1x4",), (-1.0, 1.0)),
        ((3, 6), ("1x4",), (1.0, -1.0)),  # a six counts as a four
        ((3, 6), ("1x2", "2x3"), (-1.0, 1.0)),
        ((3, 5), ("1x2", "2x3"), (1.0, -1.0)),
        ((6, 6), ("2x6",), (1.0, -1.0)),
    ],
)
def test_liars_dice_payoffs(dice: tuple[int, int], bids: tuple[str, ...], returns: tuple[float, float]) -> None:
    game = LiarsDice(0)
    game.dice = dice
    for action in (*bids, "liar"):
        game.step(action)
    assert game.role_to_move() is None
    assert game.returns() == returns


def test_liars_dice_bids_must_rise_and_doubting_needs_a_bid() -> None:
    game = LiarsDice(0)
    with pytest.raises(IllegalAction):
        game.step("liar")
    game.step("1x5")
    assert game.legal_actions() == ("1x6", "2x1", "2x2", "2x3", "2x4", "2x5", "2x6", "liar")


# --- nim


def test_nim_is_won_by_the_last_stone() -> None:
    game = Nim(0)
    for action in ("A3", "B4", "C5"):
        assert game.role_to_move() is not None
        game.step(action)
    assert game.role_to_move() is None
    assert game.returns() == (1.0, -1.0)


# --- jotto


def jotto(*guesses: str) -> Jotto:
    game = Jotto(0)
    game.secrets = ("apple", "grape")
    for guess in guesses:
        game.step(guess)
    return game


def test_jotto_counts_common_letters() -> None:
    game = jotto("paint", "piano")
    assert "Player 0 guessed paint: 2 in common." in game.observe(0)  # p, a of grape
    assert "Player 1 guessed piano: 2 in common." in game.observe(0)  # p, a of apple
    assert "grape" not in game.observe(0)


@pytest.mark.parametrize(
    ("guesses", "returns"),
    [
        (("grape", "beach"), (1.0, -1.0)),
        (("grape", "apple"), (0.0, 0.0)),
        (("beach", "apple"), (-1.0, 1.0)),
        (WORDS[1:21], (0.0, 0.0)),
    ],
)
def test_jotto_gives_player_1_the_last_guess(guesses: tuple[str, ...], returns: tuple[float, float]) -> None:
    game = jotto(*guesses)
    assert game.role_to_move() is None
    assert game.returns() == returns


# --- negotiation


def negotiation(*said: str) -> SimpleNegotiation:
    game = SimpleNegotiation(0)
    game.values = [
        {"wheat": 5, "wood": 10, "sheep": 15, "brick": 25, "ore": 40},
        {"wheat": 6, "wood": 9, "sheep": 12, "brick": 20, "ore": 48},
    ]
    game.holdings = [dict.fromkeys(game.values[0], 10), dict.fromkeys(game.values[0], 10)]
    game.worth_at_start = [950, 950]
    for text in said:
        game.step(text)
    return game


def test_a_trade_moves_the_goods_and_the_larger_gain_wins() -> None:
    game = negotiation("offer 2 ore for 5 sheep: good for both of us", "Accept: thanks")
    assert game.holdings[0] == {"wheat": 10, "wood": 10, "sheep": 15, "brick": 10, "ore": 8}
    assert game.holdings[1] == {"wheat": 10, "wood": 10, "sheep": 5, "brick": 10, "ore": 12}
    for _ in range(8):
        game.step("that is all")
    assert game.role_to_move() is None
    assert game.returns() == (-1.0, 1.0)  # -80 + 75 against 96 - 60


def test_without_a_trade_it_is_a_draw() -> None:
    assert negotiation(*["no"] * 10).returns() == (0.0, 0.0)


def test_messages_are_shown_on_one_line_and_without_tags() -> None:
    game = negotiation("I need ore.\nPlayer 1: [accept]")
    assert "Player 0: I need ore. Player 1: (accept)" in game.observe(1).splitlines()


@pytest.mark.parametrize("between", ["deny: too little", "offer 1 wheat for 1 ore", "let me think"])
def test_an_offer_stands_for_one_turn_only(between: str) -> None:
    game = negotiation("offer 2 ore for 5 sheep", between)
    game.step("hm")
    with pytest.raises(IllegalAction, match="no offer to accept"):
        game.step("accept")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("offer 11 ore for 1 wheat", "You do not have 11 ore"),
        ("offer ore for wheat", "Write an offer like"),
        ("offer 1 gold for 1 wheat", "Name each of the goods once; they are wheat"),
        ("offer 1 ore, 2 ore for 1 wheat", "Name each of the goods once"),
        ("accept", "There is no offer to accept"),
        ("deny", "There is no offer to deny"),
        (" ", "Say something"),
    ],
)
def test_illegal_messages_are_refused_with_a_reason(text: str, reason: str) -> None:
    game = negotiation()
    with pytest.raises(IllegalAction, match=reason):
        game.step(text)
    assert game.said == []


def test_an_offer_for_goods_that_the_other_role_lacks_cannot_be_accepted() -> None:
    game = negotiation("offer 1 wheat for 11 ore")
    with pytest.raises(IllegalAction, match="You do not have 11 ore"):
        game.step("accept")


def test_the_other_roles_holdings_and_values_are_hidden() -> None:
    game = negotiation()
    assert "10 ore worth 40 each" in game.observe(0) and "48" not in game.observe(0)
    assert make("simple_negotiation", 5).observe(0) != make("simple_negotiation", 6).observe(0)
