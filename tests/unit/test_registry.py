"""Finding a game by its id."""

from typing import ClassVar

import pytest

from spiral.game import Game, GameSpec, game_ids, make
from spiral.game.registry import all_game_ids
from spiral_games.kuhn_poker import KuhnPoker


class HeadsOrTails:
    """A game that is registered nowhere."""

    spec: ClassVar = GameSpec(id="heads", title="Heads or tails", rules="", max_turns=1, max_return=1.0)

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def role_to_move(self) -> int | None:
        return None

    def observe(self, role: int) -> str:
        return ""

    def legal_actions(self) -> tuple[str, ...]:
        return ()

    def step(self, action: str) -> None:
        raise NotImplementedError

    def returns(self) -> tuple[float, float]:
        return 0.0, 0.0


NOT_A_GAME = 5


def test_a_registered_game_is_found_by_its_name() -> None:
    game = make("kuhn_poker", 3)
    assert isinstance(game, KuhnPoker)
    assert game.cards == KuhnPoker(3).cards


def test_the_projects_own_games_are_registered() -> None:
    assert "kuhn_poker" in game_ids()


def test_a_textarena_game_is_found() -> None:
    assert make("textarena/TicTacToe-v0", 0).spec.id == "textarena/TicTacToe-v0"


def test_an_unregistered_class_is_found_and_gets_the_seed() -> None:
    game = make(f"{__name__}:HeadsOrTails", 42)
    assert isinstance(game, HeadsOrTails)
    assert isinstance(game, Game)
    assert game.seed == 42


def test_every_call_makes_a_new_match() -> None:
    assert make("kuhn_poker", 0) is not make("kuhn_poker", 0)


def test_an_unknown_id_names_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"unknown game 'khun_poker'; did you mean 'kuhn_poker'\?"):
        make("khun_poker", 0)


def test_an_id_without_a_near_one_lists_all_and_the_other_forms() -> None:
    with pytest.raises(ValueError, match=r"unknown game 'zzz'; known: .*kuhn_poker.*textarena/NAME.*module:Class"):
        make("zzz", 0)


def test_an_unknown_textarena_game_names_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="did you mean 'TicTacToe-v0'"):
        make("textarena/TicTacTo-v0", 0)


@pytest.mark.parametrize(
    ("game_id", "reason"),
    [
        ("no_such_package.games:Chess", "No module named 'no_such_package'"),
        ("spiral_games.kuhn_poker:KuhnPokr", "KuhnPokr"),
        ("spiral_games.kuhn_poker:", ""),
        (":KuhnPoker", ""),
        (".kuhn_poker:KuhnPoker", ""),
    ],
)
def test_a_class_that_cannot_be_imported_is_named(game_id: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"game '{game_id}'.*{reason}"):
        make(game_id, 0)


@pytest.mark.parametrize("name", ["builtins:int", "builtins:print", "json:loads", f"{__name__}:NOT_A_GAME"])
def test_an_object_that_is_not_a_game_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"game '{name}'"):
        make(name, 0)


def test_all_game_ids_include_registered_and_textarena_games() -> None:
    ids = all_game_ids()
    assert {"kuhn_poker", "textarena/TicTacToe-v0"} <= set(ids)
    assert len(ids) == len(set(ids))
