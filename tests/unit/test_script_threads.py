"""Scripted players in a match: their threads, time limits, errors and seeds."""

import asyncio
import dataclasses
import random
import threading
import time
from typing import Any

import pytest

from spiral.config import UserError
from spiral.game import Game
from spiral.game.scripted import Script
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.play import play
from spiral.rollout.players import ScriptedPlayer, Seat, make_player
from spiral.rollout.script_threads import ScriptThreads, ScriptTooSlow
from spiral.types import Episode, Match
from spiral_games.kuhn_poker import KuhnPoker
from tests.playing import Counting, Scripted, name_of, run


def test_a_random_player_refuses_a_game_that_lists_no_actions() -> None:
    class Silent(Counting):
        def legal_actions(self) -> tuple[str, ...] | None:
            return None

    with pytest.raises(ValueError, match="player 'random' cannot play some_game"):
        seated("random", "0/0").choose(Silent(0))


def seated(label: str, seed: str) -> ScriptedPlayer:
    unused: Any = None  # only the policy needs it
    player = make_player(label, "some_game", seed, unused)
    assert isinstance(player, ScriptedPlayer)
    return player


def thinker(game: Game, game_id: str, seed: str, argument: str) -> Script:
    """Thinks for as many milliseconds as the argument says, then plays at random."""

    def choose(match: Game) -> str:
        time.sleep(int(argument) / 1000)
        return random.Random(seed).choice(match.legal_actions() or ())

    return choose


def failing(game: Game, game_id: str, seed: str, argument: str) -> Script:
    def choose(match: Game) -> str:
        raise KeyError("no plan")

    return choose


def test_a_script_that_thinks_does_not_hold_up_the_event_loop() -> None:
    async def ticks_while_thinking() -> int:
        calls = GameCalls()
        match = Match(id=9, game=name_of(Counting), seed=0, players=("policy", "policy"))
        slow = seated(f"{__name__}:thinker:100", "0")
        playing = asyncio.create_task(play(match, (slow, slow), illegal_retries=0, move_timeout_s=30, calls=calls))
        ticks = 0
        while not playing.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert playing.result().end_reason == "finished"
        return ticks

    assert asyncio.run(ticks_while_thinking()) > 5


def test_a_script_that_takes_too_long_makes_the_episode_void() -> None:
    label = f"{__name__}:thinker:2000"
    start = time.monotonic()
    episode = run(name_of(Counting), seated(label, "0"), Scripted(), move_timeout_s=0.05)
    assert time.monotonic() - start < 1.5
    assert (episode.end_reason, episode.returns) == ("void", (0.0, 0.0))
    limit = "0.05 s for a move (rollout.move_timeout_s)"
    assert episode.error == f"{name_of(Counting)} (seed 0) is void: player {label!r} took more than {limit}"


def test_scripts_that_wait_for_a_thread_are_not_late() -> None:
    """Sixteen searches of 50 ms in two threads: the last begins after about 350 ms."""

    async def together() -> list[Episode]:
        calls = GameCalls()
        players = [seated(f"{__name__}:thinker:50", str(k)) for k in range(16)]
        matches = [Match(id=k, game=name_of(Counting), seed=k, players=("policy", "policy")) for k in range(16)]
        seats = [(player, Scripted(None)) for player in players]
        limits = {"illegal_retries": 0, "move_timeout_s": 0.3}
        playing = (play(match, pair, calls=calls, **limits) for match, pair in zip(matches, seats, strict=True))
        return list(await asyncio.gather(*playing))

    assert {episode.end_reason for episode in asyncio.run(together())} == {"forfeit"}


def test_threads_that_are_stuck_are_replaced() -> None:
    async def three_times() -> list[str | None]:
        threads, stuck = ScriptThreads(), threading.Event()
        for _ in range(3):
            with pytest.raises(ScriptTooSlow):
                await threads.run(lambda: str(stuck.wait(10)), 0.02)
        answer = await threads.run(lambda: "up", 5.0)
        stuck.set()
        return [answer]

    assert asyncio.run(three_times()) == ["up"]


def test_an_error_of_a_script_is_raised() -> None:
    with pytest.raises(UserError, match="raised in some_game: KeyError: 'no plan'"):
        run(name_of(Counting), seated(f"{__name__}:failing", "0"), Scripted())


def random_players(match: Match) -> tuple[Seat, Seat]:
    label = f"{__name__}:thinker:1" if match.id % 2 else "random"  # in threads, and in the event loop
    return seated(label, f"{match.seed}/0"), seated(label, f"{match.seed}/1")


def test_matches_played_at_the_same_time_equal_those_played_one_after_another() -> None:
    games = ("kuhn_poker", "textarena/TicTacToe-v0", "textarena/KuhnPoker-v0")
    matches = [Match(id=k, game=games[k % 3], seed=1000 + k, players=("random", "random")) for k in range(45)]

    async def play_one(match: Match, calls: GameCalls) -> Episode:
        return await play(match, random_players(match), illegal_retries=1, move_timeout_s=30, calls=calls)

    async def together() -> list[Episode]:
        calls = GameCalls()
        return list(await asyncio.gather(*(play_one(match, calls) for match in matches)))

    async def in_turn() -> list[Episode]:
        calls = GameCalls()
        return [await play_one(match, calls) for match in matches]

    def timeless(episodes: list[Episode]) -> list[Episode]:
        return [dataclasses.replace(episode, duration_s=0.0) for episode in episodes]

    played = timeless(asyncio.run(together()))
    assert played == timeless(asyncio.run(in_turn()))
    assert {episode.end_reason for episode in played} == {"finished"}
    assert len({episode.returns for episode in played}) > 2


def test_players_in_the_two_roles_draw_different_actions() -> None:
    def actions(seed: str) -> list[str]:
        player, game = seated("random", seed), KuhnPoker(0)
        return [player.choose(game) for _ in range(20)]

    assert actions("5/0") == actions("5/0")
    assert actions("5/0") != actions("5/1")
