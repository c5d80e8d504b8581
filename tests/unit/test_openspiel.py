"""OpenSpiel games through the Game protocol: their wording, views, chance and turn cap."""

import pytest

from spiral.game import ExactGame, IllegalAction, make
from spiral.game.openspiel import OpenSpielGame, supported_names
from spiral.game.openspiel.notes import NOTES
from spiral.game.solve import decision_points, nash_conv


def test_there_are_at_least_fifty_games() -> None:
    assert len(supported_names()) >= 50


def test_every_game_has_a_note_and_every_note_a_game() -> None:
    assert set(NOTES) == set(supported_names())


def test_a_view_shows_only_the_roles_own_information() -> None:
    game = make("openspiel/leduc_poker", 3)
    first, second = game.observe(0), game.observe(1)
    assert "You are player 0." in first and "[Observer: 0]" in first and "[Observer: 1]" not in first
    assert "You are player 1." in second and "[Observer: 1]" in second and "[Observer: 0]" not in second
    assert "Legal actions: Call, Raise" in first and "Legal actions" not in second


def test_chance_comes_from_the_seed() -> None:
    views = {seed: make("openspiel/leduc_poker", seed).observe(0) for seed in range(20)}
    assert views == {seed: make("openspiel/leduc_poker", seed).observe(0) for seed in range(20)}
    assert len(set(views.values())) > 3


def test_openspiels_labels_are_removed_from_actions() -> None:
    assert make("openspiel/gin_rummy", 0).legal_actions() == ("Draw upcard", "Pass")
    assert make("openspiel/universal_poker", 0).legal_actions() == ("Call", "Bet", "AllIn")


def test_upper_and_lower_case_are_different_moves() -> None:
    game = make("openspiel/oware", 0)
    with pytest.raises(IllegalAction, match="'a' is not legal. Legal actions: A, B, C, D, E, F"):
        game.step("a")  # one of player 1's houses
    game.step("A")


def test_a_long_list_of_actions_is_shortened_and_labelled_so() -> None:
    view = make("openspiel/go", 0).observe(0)
    assert "Legal actions (362, here every" in view
    assert len(view) < 2000


def test_returns_are_openspiels_and_max_return_is_their_bound() -> None:
    game = make("openspiel/kuhn_poker", 0)
    for action in ("Bet", "Bet"):
        game.step(action)
    assert game.role_to_move() is None
    assert sorted(game.returns()) == [-2.0, 2.0]
    assert game.spec.max_return == 2.0


def test_a_match_is_a_draw_at_the_turn_cap() -> None:
    game = OpenSpielGame("chess", 0)
    game.spec = type(game.spec)(id="x", title="x", rules="", max_turns=2, max_return=1.0)
    for action in ("e4", "e5"):
        game.step(action)
    assert game.role_to_move() is None
    assert game.returns() == (0.0, 0.0)
    with pytest.raises(IllegalAction, match="over"):
        game.step("Nf3")


@pytest.mark.parametrize(("name", "text"), [("ches", "did you mean 'chess'"), ("matrix_pd", "zero-sum")])
def test_an_unknown_name_gets_a_hint(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(f"openspiel/{name}", 0)


def test_small_games_can_be_enumerated() -> None:
    game = make("openspiel/kuhn_poker", 0)
    assert isinstance(game, ExactGame)
    assert len(decision_points("openspiel/kuhn_poker")) == 12
    uniform = nash_conv("openspiel/kuhn_poker", lambda role, info, actions: [1 / len(actions)] * len(actions))
    assert uniform == pytest.approx(11 / 12, abs=1e-9)


def test_a_game_with_chance_between_turns_is_not_enumerated() -> None:
    with pytest.raises(ValueError, match="cannot be enumerated"):
        decision_points("openspiel/leduc_poker")
