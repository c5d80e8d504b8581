"""Scripted players: how they are found, which games they can play, and that perfect play is perfect."""

from importlib.metadata import EntryPoint

import pytest

from spiral import plugins
from spiral.config import UserError
from spiral.game import Game, make
from spiral.game.perfect import perfect_policy
from spiral.game.scripted import Script, is_script, require_playable, script, scripted_players
from spiral.game.solve import nash_conv

CHECK = f"{__name__}:always_check"


def always_check(game: Game, game_id: str, seed: str, argument: str) -> Script:
    """Never bets. Facing a bet it folds, or plays `argument`."""
    if game.spec.id != "kuhn_poker":
        raise ValueError("it plays Kuhn poker only")

    def act(match: Game) -> str:
        return next(action for action in ("check", argument or "fold") if action in (match.legal_actions() or ()))

    return act


@pytest.fixture
def registered_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers `always_check` as `check`, beside the built-in players."""
    entry = EntryPoint(name="check", value=CHECK, group="spiral.players")
    registered = plugins.registered
    players = registered("spiral.players") | {"check": entry}
    monkeypatch.setattr(
        "spiral.plugins.registered", lambda group: players if group == "spiral.players" else registered(group)
    )


@pytest.mark.parametrize(
    ("game", "players"),
    [
        ("kuhn_poker", ("perfect", "random")),
        ("tic_tac_toe", ("mcts", "perfect", "random")),
        ("connect_four", ("mcts", "random")),
        ("pig", ("mcts", "random")),
        ("openspiel/leduc_poker", ("random",)),
        ("openspiel/phantom_ttt", ("random",)),  # a search would see the other role's marks
        ("textarena/TicTacToe-v0", ("random",)),
        ("simple_negotiation", ()),
    ],
)
def test_the_players_of_a_game(game: str, players: tuple[str, ...]) -> None:
    assert scripted_players(make(game, 0), game) == players


@pytest.mark.parametrize("label", [CHECK, f"{CHECK}:fold", "check", "check:fold"])
def test_a_plugin_player_is_found_by_its_name_or_its_import_path(registered_check: None, label: str) -> None:
    game = make("kuhn_poker", 0)
    require_playable(label, "kuhn_poker", game)
    play = script(label, "kuhn_poker", game, "seed")
    assert play(game) == "check"
    game.step("bet")
    assert play(game) == "fold"


@pytest.mark.parametrize("label", [f"{CHECK}:call", "check:call"])
def test_a_player_gets_the_rest_of_its_label_as_argument(registered_check: None, label: str) -> None:
    game = make("kuhn_poker", 0)
    game.step("bet")
    assert script(label, "kuhn_poker", game, "seed")(game) == "call"


def test_a_registered_player_is_listed_with_the_games_that_it_can_play(registered_check: None) -> None:
    assert "check" in scripted_players(make("kuhn_poker", 0), "kuhn_poker")
    assert "check" not in scripted_players(make("nim", 0), "nim")


def test_perfect_kuhn_poker_exploits_a_player_that_never_bets() -> None:
    # Role 1 bets the king and a third of its jacks, and every bet wins the ante: 1 with the king, 1/3 - 2/3 with the
    # jack, 0 with the queen, which is 2/9 on average.
    returns = results("kuhn_poker", CHECK, "perfect", 2000)
    assert sum(returns) / len(returns) == pytest.approx(-2 / 9, abs=0.08)


@pytest.mark.parametrize(
    "label", ["random", "perfect", "mcts", "mcts:100", "mcts:x", "my.module:player", "m:player:1:2"]
)
def test_a_label_of_a_script(label: str) -> None:
    assert is_script(label)


@pytest.mark.parametrize(
    "label", ["policy", "policy@12", "policy:x", "radom", "runs/first", "./my:model", "org/model", "a:1", ""]
)
def test_a_label_of_something_else(label: str) -> None:
    assert not is_script(label)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("radom", r"^unknown player 'radom'; did you mean 'random'\?"),
        ("mcst:100", r"^unknown player 'mcst'; did you mean 'mcts'\?"),
        ("policy", r"^player 'policy' is a language model; expected a scripted player: random, "),
        ("policy@12", "^player 'policy@12' is a language model"),
        ("mcts:0", "^player 'mcts:0' cannot play kuhn_poker: .* positive number of simulations"),
        ("mcts:10", "^player 'mcts:10' cannot play kuhn_poker: .*; players that can: perfect, random$"),
        ("random:1", "^player 'random:1' cannot play kuhn_poker: it takes no argument, got '1'"),
        ("no_such_module:player", "^player 'no_such_module:player' cannot be imported: ModuleNotFoundError"),
        ("json:loads", "^player 'json:loads' cannot be constructed for kuhn_poker: TypeError"),
        (f"{__name__}:returns_nothing", "returned a NoneType, expected a function$"),
    ],
)
def test_a_player_that_cannot_play_is_named_in_one_line(label: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        require_playable(label, "kuhn_poker", make("kuhn_poker", 0))
    assert "\n" not in str(raised.value)


def returns_nothing(*_: object) -> None: ...


def raises_in_play(*_: object) -> Script:
    def act(match: Game) -> str:
        raise KeyError("jack\nof hearts")

    return act


def returns_a_number(*_: object) -> object:
    return lambda match: 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raises_in_play", r"raised in kuhn_poker: KeyError: 'jack\\nof hearts'"),
        ("returns_a_number", "returned a int in kuhn_poker, expected a string"),
    ],
)
def test_a_player_that_fails_in_play_is_named_in_one_line(name: str, text: str) -> None:
    game = make("kuhn_poker", 0)
    play = script(f"{__name__}:{name}", "kuhn_poker", game, "seed")
    with pytest.raises(UserError, match=f"^player '{__name__}:{name}' {text}$"):
        play(game)


def test_perfect_is_constructed_without_solving_the_game(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spiral.game.perfect.perfect_policy", lambda game_id: pytest.fail("solved"))
    script("perfect", "liars_dice", make("liars_dice", 0), "seed")


def results(game_id: str, first: str, second: str, matches: int) -> list[float]:
    """The returns of role 0."""
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


def test_perfect_nim_wins_every_won_position() -> None:
    # Piles of 3, 4 and 5 have nim-sum 2, so role 0 wins; playing at random it soon gives that away.
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


def test_perfect_play_samples_from_its_policy() -> None:
    game = make("kuhn_poker", 0)
    game.cards = (2, 0)
    game.step("check")
    play = script("perfect", "kuhn_poker", game, "seed")
    bets = sum(play(game) == "bet" for _ in range(3000)) / 3000
    assert bets == pytest.approx(1 / 3, abs=0.03)


def test_the_same_seed_gives_the_same_actions() -> None:
    def actions(seed: str) -> list[str]:
        game = make("connect_four", 0)
        return [script(label, "connect_four", game, seed)(game) for label in ("random", "mcts:20")]

    assert actions("7") == actions("7")
    assert len({tuple(actions(str(n))) for n in range(20)}) > 1


def test_uniform_leduc_poker_has_the_published_nash_conv() -> None:
    uniform = nash_conv("leduc_poker", lambda role, info, actions: [1 / len(actions)] * len(actions))
    assert uniform == pytest.approx(4.747222, abs=5e-7)
