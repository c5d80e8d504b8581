"""One coroutine plays one match: retries, forfeits, the turn cap, crashes, timeouts."""

import time

import numpy as np
import pytest

from spiral.game import Game, IllegalAction
from spiral.rollout.game_calls import GameCalls, GameCrashed
from spiral.rollout.players import Answer
from spiral.rollout.prompt import PromptTooLong
from spiral.types import Completion, Match
from spiral_games.kuhn_poker import KuhnPoker
from tests.playing import Counting, Scripted, Waiting, name_of, run


class Failing:
    """A player that breaks."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        raise self.error


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


# --- finished matches ------------------------------------------------------------------------------------------------


def test_returns_of_a_finished_match_are_payoff_over_max_return() -> None:
    episode = run(name_of(Counting), Scripted("up", "up"), Scripted("up"))
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
    turn = run(name_of(Counting), Scripted("up", "up"), Scripted("up")).turns[1]
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

    turns = run(name_of(Counting), Model(), Scripted("up")).turns
    assert [(turn.prompt_ids.tolist(), turn.completion) for turn in turns] == [
        ([1, 2], completion),
        ([], None),
        ([1, 2], completion),
    ]


def test_an_episode_names_its_match() -> None:
    episode = run(name_of(Counting), Scripted("up", "up"), Scripted("up"), seed=4)
    assert episode.match == Match(id=9, game=name_of(Counting), seed=4, players=("policy", "random"))
    assert episode.duration_s >= 0


def test_the_seed_reaches_the_game() -> None:
    assert "no dice for seed 31" in (run(name_of(CrashingConstructor), Scripted(), Scripted(), seed=31).error or "")


# --- illegal actions -------------------------------------------------------------------------------------------------


def test_an_illegal_action_is_retried_with_the_reason_shown() -> None:
    first = Scripted("down", "up", "up")
    episode = run(name_of(Counting), first, Scripted("up"))
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
    episode = run(name_of(Counting), players[0], players[1])
    assert (episode.end_reason, episode.forfeit_by, episode.returns) == ("forfeit", role, returns)
    assert [turn.legal for turn in episode.turns] == [True] * role + [False, False]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_illegal_actions_are_retried_as_often_as_configured(retries: int) -> None:
    player = Scripted(*["down"] * 9)
    assert run(name_of(Counting), player, Scripted(), retries=retries).end_reason == "forfeit"
    assert len(player.seen) == 1 + retries


def test_every_turn_has_its_own_retries() -> None:
    episode = run(name_of(Counting), Scripted("down", "up", "down", "up"), Scripted("down", "up"))
    assert episode.end_reason == "finished"
    assert [turn.legal for turn in episode.turns] == [False, True] * 3


def test_an_answer_without_an_action_is_illegal() -> None:
    first = Scripted(None, "up", "up")
    turn = run(name_of(Counting), first, Scripted("up")).turns[0]
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
    episode = run(name_of(Endless), Scripted("up", "up"), Scripted("up", "up"))
    assert (episode.end_reason, episode.returns, episode.forfeit_by) == ("turn_cap", (0.0, 0.0), None)
    assert len(episode.turns) == 3


def test_refused_actions_do_not_count_towards_the_turn_cap() -> None:
    episode = run(name_of(Endless), Scripted("down", "up", "down", "up"), Scripted("up"))
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
    episode = run(name_of(game), Scripted("up", "up"), Scripted("up"))
    assert (episode.end_reason, episode.returns, episode.forfeit_by) == ("void", (0.0, 0.0), None)
    assert episode.error == f"{name_of(game)} (seed 0) crashed: {text}"
    assert len(episode.turns) == num_turns


def test_a_call_of_the_game_that_takes_too_long_makes_the_episode_void() -> None:
    episode = run(name_of(SlowStep), Scripted("up"), Scripted(), move_timeout_s=0.02)
    assert (episode.end_reason, episode.returns, episode.turns) == ("void", (0.0, 0.0), ())
    assert episode.error == f"{name_of(SlowStep)} (seed 0) took more than 0.02 s for a call (rollout.move_timeout_s)"


def test_a_policy_may_wait_for_its_engine_for_longer_than_a_move_may_take() -> None:
    first = Waiting(Scripted("up", "up"), seconds=0.05)
    assert run(name_of(Counting), first, Scripted("up"), move_timeout_s=0.02).end_reason == "finished"


def test_a_first_prompt_that_does_not_fit_makes_the_episode_void() -> None:
    episode = run(name_of(Counting), Failing(PromptTooLong("prompt of 9 tokens")), Scripted())
    assert (episode.end_reason, episode.error) == ("void", "prompt of 9 tokens")


def test_a_later_prompt_that_does_not_fit_is_a_draw() -> None:
    episode = run(name_of(Counting), Scripted("up"), Failing(PromptTooLong("prompt of 9 tokens")))
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
        run(name_of(Counting), Failing(error), Scripted())
