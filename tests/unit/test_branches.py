"""Continuations from before each move: a copy of the match goes on by itself, and the match does not notice."""

import asyncio
import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spiral.game import Game
from spiral.rollout.players import Answer, PlayerFailed, PolicyPlayer, ScriptedPlayer
from spiral.rollout.prompt import Message, MessageBuilder, PromptTooLong
from spiral.types import Completion
from tests import builders
from tests.playing import Counting, Scripted, name_of, run


class Doubling:
    """Three bits, chosen in turn. Role 0 wins the binary number that tells where they differ from the drawn ones."""

    spec = Counting.spec

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.bits: list[int] = []
        self.score = 0

    def role_to_move(self) -> int | None:
        return len(self.bits) % 2 if len(self.bits) < 3 else None

    def observe(self, role: int) -> str:
        return f"so far {self.bits}"

    def legal_actions(self) -> tuple[str, ...] | None:
        return ("0", "1")

    def step(self, action: str) -> None:
        self.bits.append(int(action))
        self.score = 2 * self.score + (int(action) ^ self.rng.getrandbits(1))

    def returns(self) -> tuple[float, float]:
        return float(self.score), -float(self.score)


class Cloning(Doubling):
    """The same with a `clone` that counts its calls."""

    clones = 0

    def clone(self) -> "Cloning":
        Cloning.clones += 1
        return copy.deepcopy(self)


class Remembering:
    """Always answers 0, and fails if it has been asked in another continuation than its own."""

    def __init__(self) -> None:
        self.answers: tuple[str, ...] = ()

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        self.answers = (*self.answers, observation)
        assert len(self.answers) == len({*self.answers}), "an observation comes up once in a match"
        await asyncio.sleep(0)
        return Answer(text="0", action="0")


class Failing:
    """Answers as long as it is not asked about a continuation."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.is_copy = False

    def __copy__(self) -> "Failing":
        other = Failing(self.error)
        other.is_copy = True
        return other

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        if self.is_copy:
            raise self.error
        await asyncio.sleep(0.01)
        return Answer(text="0", action="0")


def value(seed: int, *bits: int) -> float:
    """The return of role 0 in Doubling."""
    game = Doubling(seed)
    for bit in bits:
        game.step(str(bit))
    return game.returns()[0] / game.spec.max_return


def test_every_move_has_its_continuations_from_the_same_position() -> None:
    episode = run(name_of(Doubling), Remembering(), Remembering(), seed=3, branches=2)
    assert episode.returns[0] == value(3, 0, 0, 0)
    assert [turn.continuations for turn in episode.turns] == [(episode.returns[0],) * 2] * 3


@pytest.mark.parametrize("game", [Doubling, Cloning])
def test_continuations_differ_after_their_move_and_agree_before(game: type[Doubling]) -> None:
    Cloning.clones = 0
    players = [ScriptedPlayer("random", name_of(game), f"{role}") for role in (0, 1)]
    episode = run(name_of(game), *players, seed=5, branches=40)
    bits = [int(turn.action or "") for turn in episode.turns]
    every = [{value(5, a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}]
    every.append({value(5, bits[0], b, c) for b in (0, 1) for c in (0, 1)})
    every.append({value(5, bits[0], bits[1], c) for c in (0, 1)})
    assert [set(turn.continuations) for turn in episode.turns] == every
    assert Cloning.clones == (120 if game is Cloning else 0)


def test_the_match_itself_is_what_it_is_without_continuations() -> None:
    def played(branches: int) -> Any:
        players = [ScriptedPlayer("random", name_of(Doubling), f"{role}") for role in (0, 1)]
        episode = run(name_of(Doubling), *players, seed=7, branches=branches)
        return [turn.action for turn in episode.turns], episode.returns

    assert played(0) == played(3)
    assert all(turn.continuations == () for turn in run(name_of(Counting), Scripted("up", "up"), Scripted("up")).turns)


def test_attempts_at_one_move_have_the_same_continuations() -> None:
    first = ScriptedPlayer("random", name_of(Counting), "0")
    episode = run(name_of(Counting), first, Fumbling(), branches=2)
    assert [(turn.role, turn.legal, turn.continuations) for turn in episode.turns] == [
        (0, True, (0.5, 0.5)),
        (1, False, (0.5, 0.5)),
        (1, True, (0.5, 0.5)),
        (0, True, (0.5, 0.5)),
    ]


class Fumbling:
    """The first answer of each player to an observation is refused."""

    async def act(self, game: Game, role: int, observation: str, error: str | None) -> Answer:
        return Answer(text="", action=None if error is None else "up")


def test_a_continuation_that_is_void_is_left_out_and_one_that_outgrows_the_context_is_a_draw() -> None:
    lost = run(name_of(Doubling), Failing(PlayerFailed("gone")), Remembering(), branches=2)
    assert lost.end_reason == "finished"
    assert [len(turn.continuations) for turn in lost.turns] == [0, 0, 0]
    full = run(name_of(Doubling), Failing(PromptTooLong("full")), Remembering(), branches=2)
    assert [turn.continuations for turn in full.turns] == [(0.0, 0.0)] * 3


def test_an_engine_that_dies_in_a_continuation_ends_the_match() -> None:
    with pytest.raises(RuntimeError, match="engine"):
        run(name_of(Doubling), Failing(RuntimeError("the engine is dead")), Remembering(), branches=1)


class Echo:
    """An engine that samples `[0]`, and keeps the first token of each prompt."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def sample(self, prompt: NDArray[np.int32], label: str) -> Completion:
        self.asked.append(int(prompt[0]))
        await asyncio.sleep(0)
        return builders.completion()


class Prompter:
    """A prompt is the number of earlier answers."""

    messages = MessageBuilder("bracket", lambda turn: [{"role": "user", "content": f"{len(turn.history)}"}])

    def prompt_ids(self, messages: Sequence[Message]) -> NDArray[np.int32]:
        return np.array([int(messages[0]["content"])], np.int32)

    def read(self, token_ids: NDArray[np.int32]) -> tuple[str, str | None]:
        return "[0]", "0"


def test_a_copy_of_the_policy_has_the_history_up_to_its_move() -> None:
    engine = Echo()
    players = [PolicyPlayer(engine, Prompter()) for _ in (0, 1)]  # type: ignore[arg-type]
    run(name_of(Doubling), *players, branches=1)
    match, from_first, from_second, from_third = [0, 0, 1], [0, 0, 1], [0, 1], [1]
    assert sorted(engine.asked) == sorted([*match, *from_first, *from_second, *from_third])
