"""What each role saw in a recorded match, as text and as pictures."""

import pytest

from spiral.game import check, make
from spiral.game.picture import Picture
from spiral.game.views import NotReplayable, replayed
from spiral.types import Episode
from spiral_games.kuhn_poker import KuhnPoker
from tests.builders import episode, sampled


def kuhn_match(**changes: object) -> Episode:
    game = make("kuhn_poker", 7)
    turns = []
    for role, action in ((0, "bet"), (1, "fold")):
        turns.append(sampled(role, observation=game.observe(role), text=f"[{action}]", action=action))
        game.step(action)
    return episode(1, turns, (0.5, -0.5), seed=7, **changes)  # type: ignore[arg-type]


def test_a_match_is_played_again() -> None:
    seats = replayed(kuhn_match())
    assert [len(seats), *(one.text[-10:] for one in seats[-1])] == [3, "r 1 folds.", "r 1 folds."]
    assert seats[0][0].picture and seats[0][0].picture != seats[0][1].picture


def test_a_game_that_shows_something_else_is_not_played_again() -> None:
    with pytest.raises(NotReplayable, match="shows other text now"):
        replayed(kuhn_match(game="leduc_poker"))
    with pytest.raises(NotReplayable, match="no_such_game"):
        replayed(kuhn_match(game="no_such_game"))


class Peeking(KuhnPoker):
    """Shows both cards to both roles, in its pictures only."""

    def render(self, role: int) -> Picture:
        return (*super().render(0), *super().render(1))


def test_the_conformance_kit_finds_a_picture_that_shows_too_much() -> None:
    (faults,) = check([f"{__name__}:Peeking"]).values()
    assert any("more than its information state" in fault for fault in faults)
    assert check(["kuhn_poker", "leduc_poker", "connect_four"]) == {
        "kuhn_poker": [],
        "leduc_poker": [],
        "connect_four": [],
    }


@pytest.mark.parametrize(
    "game_id", ["tic_tac_toe", "connect_four", "textarena/TicTacToe-v0", "textarena/ConnectFour-v0"]
)
def test_boards_mark_the_last_move(game_id: str) -> None:
    game = make(game_id, 0)
    for number in range(4):
        tiles = [tile for row in game.render(0) for tile in row.tiles]  # type: ignore[attr-defined]
        assert sum(tile.owner is not None for tile in tiles) == number
        assert [tile.owner for tile in tiles if tile.marked] == ([(number - 1) % 2] if number else [])
        game.step((game.legal_actions() or ())[0])
