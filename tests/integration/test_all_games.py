"""Checks that take minutes: every game that `spiral games` lists, and the largest exact one."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from spiral.game.conformance import check
from spiral.game.openspiel import supported_names as openspiel_names
from spiral.game.perfect import perfect_policy
from spiral.game.registry import all_game_ids, game_ids
from spiral.game.solve import nash_conv
from spiral.game.textarena import supported_names as textarena_names


def test_there_are_enough_games() -> None:
    assert len({name.partition("-")[0] for name in textarena_names()}) >= 30
    assert len(openspiel_names()) >= 50
    assert len(game_ids()) >= 10


@pytest.mark.timeout(900)
def test_every_game_is_sound() -> None:
    """In several processes, each with every sixteenth game, so that slow families are spread out."""
    ids = all_game_ids()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        faults = {
            game: found for part in pool.map(check, (ids[i::16] for i in range(16))) for game, found in part.items()
        }
    assert set(faults) == set(ids)
    assert {game: found for game, found in faults.items() if found} == {}


@pytest.mark.timeout(300)
def test_uniform_liars_dice_has_openspiels_nash_conv() -> None:
    """1.5614886463844795 is exploitability.nash_conv of pyspiel's liars_dice for a uniform policy (OpenSpiel 2.0.2)."""
    uniform = nash_conv("liars_dice", lambda role, info, actions: [1 / len(actions)] * len(actions))
    assert uniform == pytest.approx(1.5614886463844795, abs=1e-9)


@pytest.mark.timeout(300)
def test_perfect_liars_dice_is_close_to_an_equilibrium() -> None:
    table = perfect_policy("liars_dice")
    assert nash_conv("liars_dice", lambda role, info, actions: table[role, info]) < 0.02
