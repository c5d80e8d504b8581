"""One coroutine plays one match: retries, forfeits, the turn cap, crashes, timeouts."""

import asyncio
import dataclasses
import random
import threading
import time
from typing import Any, ClassVar

import numpy as np
import pytest

from spiral.config import UserError
from spiral.game import Game, GameSpec, IllegalAction
from spiral.game.scripted import Script
from spiral.rollout.game_calls import GameCalls, GameCrashed
from spiral.rollout.play import Seat, play
from spiral.rollout.players import Answer, Player, ScriptedPlayer, make_player
from spiral.rollout.prompt import PromptTooLong
from spiral.rollout.script_threads import ScriptThreads, ScriptTooSlow
from spiral.types import Completion, Episode, Match
from spiral_games.kuhn_poker import KuhnPoker


class Scripted:
    """Answers with the given actions, one after another, and keeps what it was shown. None: no action can be read."""

    def __init__(self, *actions: str | None) -> None:
        self.actions = list(actions)
        self.seen: list[tuple[str, str | None]] = []

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        self.seen.append((observation, error))
        action = self.actions.pop(0)
        return Answer(text=f"I say {action}", action=action)


class Failing:
    """A player that breaks."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        raise self.error


class Waiting:
    """Lets other matches go on for a while before each answer, as a policy does that waits for its engine."""

    def __init__(self, player: Player, seconds: float = 0.0) -> None:
        self.player = player
        self.seconds = seconds

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        await asyncio.sleep(self.seconds)
        return await self.player.act(game, role, observation, error)


class Counting:
    """The roles take turns saying `up`; whoever says it for the third time wins 5 chips.

    `max_turns` is exactly enough.
    """

    spec: ClassVar = GameSpec(id="counting", title="Counting", rules="", max_turns=3, max_return=10.0)

    def __init__(self, seed: int) -> None:
        self.count = 0

    def role_to_move(self) -> int | None:
        return self.count % 2 if self.count < 3 else None

    def observe(self, role: int) -> str:
        return f"count {self.count}"

    def legal_actions(self) -> tuple[str, ...] | None:
        return ("up",)

    def step(self, action: str) -> None:
        if action != "up":
            raise IllegalAction(f"{action!r} is not up.")
        self.count += 1

    def returns(self) -> tuple[float, float]:
        return 5.0, -5.0


class Endless(Counting):
    def role_to_move(self) -> int | None:
        return self.count % 2

    def returns(self) -> tuple[float, float]:
        raise AssertionError("a match that is cut off has no payoff")


class CrashingConstructor(Counting):
    def __init__(self, seed: int) -> None:
        raise RuntimeError(f"no dice for seed {seed}")


class CrashingRoleToMove(Counting):
    def role_to_move(self) -> int | None:
        if self.count == 1:
            raise RuntimeError("no dice")
        return super().role_to_move()


class CrashingObserve(Counting):
    def observe(self, role: int) -> str:
        if self.count == 1:
            raise RuntimeError("no dice")
        return super().observe(role)


class CrashingStep(Counting):
    def step(self, action: str) -> None:
        if self.count == 1:
            raise KeyError("no dice")
        super().step(action)


class CrashingReturns(Counting):
    def returns(self) -> tuple[float, float]:
        raise RuntimeError("no dice")


class RefusingObserve(Counting):
    def observe(self, role: int) -> str:
        raise IllegalAction("no dice")


class TimingOutStep(Counting):
    def step(self, action: str) -> None:
        raise TimeoutError("no dice")


class SlowStep(Counting):
    def step(self, action: str) -> None:
        time.sleep(0.05)
        super().step(action)


def run(
    game: str, first: Seat, second: Seat, *, retries: int = 1, move_timeout_s: float = 30.0, seed: int = 0
) -> Episode:
    match = Match(id=9, game=game, seed=seed, players=("policy", "random"))
    limits = {"illegal_retries": retries, "move_timeout_s": move_timeout_s}
    return asyncio.run(play(match, (first, second), calls=GameCalls(), **limits))


def here(game: type) -> str:
    return f"{__name__}:{game.__name__}"


# --- finished matches ------------------------------------------------------------------------------------------------


def test_returns_of_a_finished_match_are_payoff_over_max_return() -> None:
    episode = run(here(Counting), Scripted("up", "up"), Scripted("up"))
    assert (episode.returns, episode.end_reason) == ((0.5, -0.5), "finished")
    assert (episode.forfeit_by, episode.error) == (None, None)


@pytest.mark.parametrize(
    ("first", "second", "returns"), [(("bet",), ("call",), (1.0, -1.0)), (("check",), ("check",), (0.5, -0.5))]
)
def test_kuhn_poker_is_played_to_its_end(first: tuple[str], second: tuple[str], returns: tuple[float, float]) -> None:
    seed = next(seed for seed in range(100) if KuhnPoker(seed).cards == (2, 0))  # king against jack
    episode = run("kuhn_poker", Scripted(*first), Scripted(*second), seed=seed)
    assert (episode.returns, episode.end_reason) == (returns, "finished")
    assert [turn.role for turn in episode.turns] == [0, 1]


def test_tic_tac_toe_is_won_by_the_top_row() -> None:
    episode = run("textarena/TicTacToe-v0", Scripted("0", "1", "2"), Scripted("3", "4"))
    assert (episode.returns, episode.end_reason) == ((1.0, -1.0), "finished")
    assert [(turn.role, turn.action) for turn in episode.turns] == [(0, "0"), (1, "3"), (0, "1"), (1, "4"), (0, "2")]


def test_tic_tac_toe_can_be_drawn() -> None:
    # X O X / X O O / O X X
    episode = run("textarena/TicTacToe-v0", Scripted("0", "2", "3", "7", "8"), Scripted("1", "4", "5", "6"))
    assert (episode.returns, episode.end_reason) == ((0.0, 0.0), "finished")


def test_a_turn_holds_observation_and_answer() -> None:
    turn = run(here(Counting), Scripted("up", "up"), Scripted("up")).turns[1]
    assert (turn.role, turn.observation, turn.text, turn.action) == (1, "count 1", "I say up", "up")
    assert (turn.legal, turn.error, turn.prompt_ids.tolist(), turn.completion) == (True, None, [], None)


def test_a_turn_holds_the_tokens_of_a_language_model() -> None:
    completion = Completion(
        token_ids=np.array([4], np.int32),
        logprobs=np.array([-0.5], np.float32),
        finish_reason="stop",
        min_version=2,
        max_version=3,
    )

    class Model:
        async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
            return Answer(text="up", action="up", prompt_ids=np.array([1, 2], np.int32), completion=completion)

    turns = run(here(Counting), Model(), Scripted("up")).turns
    assert [(turn.prompt_ids.tolist(), turn.completion) for turn in turns] == [
        ([1, 2], completion),
        ([], None),
        ([1, 2], completion),
    ]


def test_an_episode_names_its_match() -> None:
    episode = run(here(Counting), Scripted("up", "up"), Scripted("up"), seed=4)
    assert episode.match == Match(id=9, game=here(Counting), seed=4, players=("policy", "random"))
    assert episode.duration_s >= 0


def test_the_seed_reaches_the_game() -> None:
    assert "no dice for seed 31" in (run(here(CrashingConstructor), Scripted(), Scripted(), seed=31).error or "")


# --- illegal actions -------------------------------------------------------------------------------------------------


def test_an_illegal_action_is_retried_with_the_reason_shown() -> None:
    first = Scripted("down", "up", "up")
    episode = run(here(Counting), first, Scripted("up"))
    assert first.seen == [("count 0", None), ("count 0", "'down' is not up."), ("count 2", None)]
    assert episode.end_reason == "finished"
    assert [(turn.action, turn.legal, turn.error) for turn in episode.turns] == [
        ("down", False, "'down' is not up."),
        ("up", True, None),
        ("up", True, None),
        ("up", True, None),
    ]


@pytest.mark.parametrize(("role", "returns"), [(0, (-1.0, 1.0)), (1, (1.0, -1.0))])
def test_too_many_illegal_actions_are_a_forfeit(role: int, returns: tuple[float, float]) -> None:
    players = [Scripted("up", "up"), Scripted("up")]
    players[role] = Scripted("down", "left")
    episode = run(here(Counting), players[0], players[1])
    assert (episode.end_reason, episode.forfeit_by, episode.returns) == ("forfeit", role, returns)
    assert [turn.legal for turn in episode.turns] == [True] * role + [False, False]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_illegal_actions_are_retried_as_often_as_configured(retries: int) -> None:
    player = Scripted(*["down"] * 9)
    assert run(here(Counting), player, Scripted(), retries=retries).end_reason == "forfeit"
    assert len(player.seen) == 1 + retries


def test_every_turn_has_its_own_retries() -> None:
    episode = run(here(Counting), Scripted("down", "up", "down", "up"), Scripted("down", "up"))
    assert episode.end_reason == "finished"
    assert [turn.legal for turn in episode.turns] == [False, True] * 3


def test_an_answer_without_an_action_is_illegal() -> None:
    first = Scripted(None, "up", "up")
    turn = run(here(Counting), first, Scripted("up")).turns[0]
    assert (turn.action, turn.legal, turn.error) == (None, False, "no action could be read from it.")
    assert first.seen[1] == ("count 0", "no action could be read from it.")


def test_two_answers_without_an_action_are_a_forfeit() -> None:
    episode = run("kuhn_poker", Scripted(None, None), Scripted())
    assert (episode.end_reason, episode.forfeit_by, episode.returns) == ("forfeit", 0, (-1.0, 1.0))


def test_an_illegal_move_in_a_textarena_game_leaves_the_board_as_it_was() -> None:
    second = Scripted("0", "3", "4")
    episode = run("textarena/TicTacToe-v0", Scripted("0", "1", "2"), second)
    assert (episode.end_reason, episode.returns) == ("finished", (1.0, -1.0))
    assert second.seen[0][0] == second.seen[1][0]
    assert second.seen[1][1] is not None


# --- the turn cap ----------------------------------------------------------------------------------------------------


def test_a_match_that_reaches_the_turn_cap_is_a_draw() -> None:
    episode = run(here(Endless), Scripted("up", "up"), Scripted("up", "up"))
    assert (episode.end_reason, episode.returns, episode.forfeit_by) == ("turn_cap", (0.0, 0.0), None)
    assert len(episode.turns) == 3


def test_refused_actions_do_not_count_towards_the_turn_cap() -> None:
    episode = run(here(Endless), Scripted("down", "up", "down", "up"), Scripted("up"))
    assert episode.end_reason == "turn_cap"
    assert [turn.legal for turn in episode.turns] == [False, True, True, False, True]


# --- void ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "num_turns", "text"),
    [
        (CrashingConstructor, 0, "RuntimeError: no dice for seed 0"),
        (CrashingRoleToMove, 1, "RuntimeError: no dice"),
        (CrashingObserve, 1, "RuntimeError: no dice"),
        (CrashingStep, 1, "KeyError: 'no dice'"),
        (CrashingReturns, 3, "RuntimeError: no dice"),
        (RefusingObserve, 0, "IllegalAction: no dice"),
        (TimingOutStep, 0, "TimeoutError: no dice"),
    ],
)
def test_a_crash_of_the_game_makes_the_episode_void(game: type, num_turns: int, text: str) -> None:
    episode = run(here(game), Scripted("up", "up"), Scripted("up"))
    assert (episode.end_reason, episode.returns, episode.forfeit_by) == ("void", (0.0, 0.0), None)
    assert episode.error == f"{here(game)} (seed 0) crashed: {text}"
    assert len(episode.turns) == num_turns


def test_a_call_of_the_game_that_takes_too_long_makes_the_episode_void() -> None:
    episode = run(here(SlowStep), Scripted("up"), Scripted(), move_timeout_s=0.02)
    assert (episode.end_reason, episode.returns, episode.turns) == ("void", (0.0, 0.0), ())
    assert episode.error == f"{here(SlowStep)} (seed 0) took more than 0.02 s for a call (rollout.move_timeout_s)"


def test_a_policy_may_wait_for_its_engine_for_longer_than_a_move_may_take() -> None:
    first = Waiting(Scripted("up", "up"), seconds=0.05)
    assert run(here(Counting), first, Scripted("up"), move_timeout_s=0.02).end_reason == "finished"


def test_a_first_prompt_that_does_not_fit_makes_the_episode_void() -> None:
    episode = run(here(Counting), Failing(PromptTooLong("prompt of 9 tokens")), Scripted())
    assert (episode.end_reason, episode.error) == ("void", "prompt of 9 tokens")


def test_a_later_prompt_that_does_not_fit_is_a_draw() -> None:
    episode = run(here(Counting), Scripted("up"), Failing(PromptTooLong("prompt of 9 tokens")))
    assert (episode.end_reason, episode.returns, episode.forfeit_by) == ("turn_cap", (0.0, 0.0), None)
    assert episode.error == "prompt of 9 tokens"
    assert len(episode.turns) == 1


# --- calls that do not return ----------------------------------------------------------------------------------------


def test_a_game_that_does_not_return_from_a_call_is_named() -> None:
    calls, match = GameCalls(), Match(id=9, game="stuck", seed=4, players=("policy", "policy"))
    assert calls.blocked(0.0) is None
    with calls.inside(match, limit_s=60):
        assert calls.blocked(60.0) is None
        found = calls.blocked(0.0)
    assert found is not None
    assert found[0] == match
    assert 0 <= found[1] < 60
    assert calls.blocked(0.0) is None


def test_the_note_of_a_call_is_removed_when_the_game_crashes() -> None:
    calls, match = GameCalls(), Match(id=9, game="bad", seed=4, players=("policy", "policy"))
    with pytest.raises(GameCrashed, match=r"bad \(seed 4\) crashed: KeyError: 1"), calls.inside(match, limit_s=60):
        raise KeyError(1)
    assert calls.blocked(0.0) is None


# --- players ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [RuntimeError("engine died"), ValueError("engine died"), TimeoutError("engine died")], ids=repr
)
def test_an_error_of_a_player_is_not_caught(error: Exception) -> None:
    with pytest.raises(type(error), match="engine died"):
        run(here(Counting), Failing(error), Scripted())


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
        match = Match(id=9, game=here(Counting), seed=0, players=("policy", "policy"))
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
    episode = run(here(Counting), seated(label, "0"), Scripted(), move_timeout_s=0.05)
    assert time.monotonic() - start < 1.5
    assert (episode.end_reason, episode.returns) == ("void", (0.0, 0.0))
    limit = "0.05 s for a move (rollout.move_timeout_s)"
    assert episode.error == f"{here(Counting)} (seed 0) is void: player {label!r} took more than {limit}"


def test_scripts_that_wait_for_a_thread_are_not_late() -> None:
    """Sixteen searches of 50 ms in two threads: the last begins after about 350 ms."""

    async def together() -> list[Episode]:
        calls = GameCalls()
        players = [seated(f"{__name__}:thinker:50", str(k)) for k in range(16)]
        matches = [Match(id=k, game=here(Counting), seed=k, players=("policy", "policy")) for k in range(16)]
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
        run(here(Counting), seated(f"{__name__}:failing", "0"), Scripted())


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
