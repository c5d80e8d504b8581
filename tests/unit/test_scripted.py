"""Scripted players: who can play what, and that perfect play is perfect."""

import pytest

from spiral.game import make
from spiral.game.perfect import perfect_policy
from spiral.game.scripted import require_playable, script, scripted_players
from spiral.game.solve import nash_conv


@pytest.mark.parametrize(
    ("game", "players"),
    [
        ("kuhn_poker", ("random", "perfect")),
        ("tic_tac_toe", ("random", "perfect", "mcts")),
        ("connect_four", ("random", "mcts")),
        ("pig", ("random", "mcts")),
        ("openspiel/leduc_poker", ("random",)),
        ("openspiel/phantom_ttt", ("random",)),  # a search would see the other side's marks
        ("textarena/TicTacToe-v0", ("random",)),
        ("simple_negotiation", ()),
    ],
)
def test_who_can_play(game: str, players: tuple[str, ...]) -> None:
    assert scripted_players(make(game, 0)) == players


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("mcts", "unknown player 'mcts'; known: random, perfect, mcts:NUMBER"),
        ("mcts:0", "unknown player 'mcts:0'"),
        ("mcts:10", "player 'mcts:10' cannot play kuhn_poker; scripts that can: random, perfect"),
    ],
)
def test_a_script_that_cannot_play_says_so(label: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        require_playable(label, "kuhn_poker", make("kuhn_poker", 0))


def results(game_id: str, first: str, second: str, matches: int) -> list[float]:
    """Returns of role 0."""
    found = []
    for seed in range(matches):
        game = make(game_id, seed)
        players = [script(label, game_id, game, f"{seed}/{role}") for role, label in enumerate((first, second))]
        while (role := game.role_to_move()) is not None:
            game.step(players[role](game))
        found.append(game.returns()[0])
    return found


@pytest.mark.parametrize("opponent", ["random", "mcts:100"])
def test_perfect_never_loses_a_thousand_games_of_tic_tac_toe_in_either_role(opponent: str) -> None:
    assert min(results("tic_tac_toe", "perfect", opponent, 1000)) == 0
    assert max(results("tic_tac_toe", opponent, "perfect", 1000)) == 0


def test_perfect_nim_wins_whoever_begins_from_a_won_position() -> None:
    # 3, 4, 5 has nim-sum 2, so role 0 wins; a random role 0 soon gives that away.
    assert set(results("nim", "perfect", "random", 200)) == {1.0}
    assert sum(results("nim", "random", "perfect", 200)) < -180


@pytest.mark.parametrize(("game", "at_most"), [("kuhn_poker", 1e-3), ("leduc_poker", 0.02)])
def test_perfect_poker_is_close_to_an_equilibrium(game: str, at_most: float) -> None:
    table = perfect_policy(game)
    assert nash_conv(game, lambda role, info_state, actions: table[role, info_state]) < at_most


def test_perfect_kuhn_bets_kings_three_times_as_often_as_jacks() -> None:
    """In every equilibrium of Kuhn poker (Kuhn 1950)."""
    table = perfect_policy("kuhn_poker")
    assert table[0, "king:"][1] == pytest.approx(3 * table[0, "jack:"][1], abs=0.02)
    assert table[1, "queen:bet"][1] == pytest.approx(1 / 3, abs=0.01)
    assert table[1, "jack:check"][1] == pytest.approx(1 / 3, abs=0.01)


def test_perfect_play_mixes_as_its_policy_says() -> None:
    game = make("kuhn_poker", 0)
    game.cards = (2, 0)
    game.step("check")
    play = script("perfect", "kuhn_poker", game, "seed")
    bets = sum(play(game) == "bet" for _ in range(3000)) / 3000
    assert bets == pytest.approx(1 / 3, abs=0.03)


def test_the_same_seed_plays_the_same() -> None:
    def actions(seed: str) -> list[str]:
        game = make("connect_four", 0)
        return [script(label, "connect_four", game, seed)(game) for label in ("random", "mcts:20")]

    assert actions("7") == actions("7")
    assert len({tuple(actions(str(n))) for n in range(20)}) > 1


def test_uniform_leduc_poker_has_the_published_nash_conv() -> None:
    uniform = nash_conv("leduc_poker", lambda role, info, actions: [1 / len(actions)] * len(actions))
    assert uniform == pytest.approx(4.747222, abs=5e-7)
