"""Players behind endpoints, against a server on loopback that answers, is slow, refuses, or talks nonsense."""

import asyncio
import copy
import time
from typing import Any

import pytest

from spiral.config import EndpointConfig, RolloutConfig, UserError
from spiral.game import make
from spiral.rollout.endpoint import Endpoint, EndpointUse
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.play import play
from spiral.rollout.players import PlayerFailed, ScriptedPlayer
from spiral.rollout.prompt import PromptTooLong
from spiral.types import Episode, Match
from tests.endpoints import Reply, answer, serving, slowly

ROLLOUT = RolloutConfig(answer_format="bracket", max_tokens=64)
MOST_FAILURES = 5


def settings(url: str, **options: Any) -> EndpointConfig:
    return EndpointConfig(**{"model": "m", "url": url, "timeout_s": 5.0, "retries": 2, **options})


def ask(
    settings: EndpointConfig, calls: int = 1, most_failures: int | None = MOST_FAILURES
) -> tuple[list[str | Exception], EndpointUse]:
    """Ask the same question `calls` times, one after another; returns the answers or errors."""

    async def run() -> tuple[list[str | Exception], EndpointUse]:
        endpoint = Endpoint(settings, ROLLOUT, most_failures)
        answers: list[str | Exception] = []
        for _ in range(calls):
            try:
                answers.append(await endpoint.complete([{"role": "user", "content": "hello"}]))
            except (PlayerFailed, UserError, PromptTooLong) as error:
                answers.append(error)
        await endpoint.close()
        return answers, endpoint.use

    return asyncio.run(run())


def play_kuhn(settings: EndpointConfig, rollout: RolloutConfig = ROLLOUT) -> Episode:
    async def run() -> Episode:
        endpoint = Endpoint(settings, rollout)
        match = Match(id=0, game="kuhn_poker", seed=3, players=("m", "random"))
        seats = endpoint.player(), ScriptedPlayer("random", "kuhn_poker", "1")
        try:
            return await play(match, seats, illegal_retries=1, move_timeout_s=10, calls=GameCalls())
        finally:
            await endpoint.close()

    return asyncio.run(run())


def test_a_request_holds_the_prompt_and_the_sampling_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with serving(lambda number, body: answer("[check]")) as (url, bodies):
        (text,), use = ask(settings(url, api_key_env="SOME_KEY", request={"seed": 7, "top_k": 5, "max_tokens": None}))
    assert text == "[check]"
    assert bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 1.0,
        "seed": 7,
        "top_k": 5,
        "authorization": "Bearer secret",
        "path": "/v1/chat/completions",
    }
    assert (use.calls, use.retries, use.errors) == (1, 0, 0)


def test_tokens_are_counted_and_paid() -> None:
    with serving(lambda number, body: answer("[check]", 1000, 50)) as (url, _):
        _, use = ask(settings(url, price=(2.0, 10.0)), calls=4)
    assert (use.prompt_tokens, use.completion_tokens) == (4000, 200)
    assert use.cost == pytest.approx(4000 * 2e-6 + 200 * 1e-5)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(status: int) -> None:
    with serving(lambda number, body: answer("[bet]") if number == 2 else (status, {})) as (url, bodies):
        (text,), use = ask(settings(url))
    assert text == "[bet]"
    assert (use.calls, use.retries, use.errors, len(bodies)) == (1, 2, 0, 3)


def test_an_answer_that_takes_too_long_is_asked_for_again() -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply:
        return slowly(0.0 if number else 1.5, answer("[bet]"))

    with serving(reply) as (url, _):
        (text,), use = ask(settings(url, timeout_s=0.5))
    assert (text, use.retries) == ("[bet]", 1)


def test_waiting_for_an_answer_is_progress() -> None:
    """A generator whose matches all wait for a slow endpoint does not hang, also at the moment when it has answered."""

    async def run(url: str) -> tuple[float, float, float]:
        endpoint, start_s = Endpoint(settings(url), ROLLOUT), time.monotonic()
        before_s = endpoint.progress_s()
        call = asyncio.create_task(endpoint.complete([{"role": "user", "content": "hello"}]))
        await asyncio.sleep(0.3)
        during_s = endpoint.progress_s() - start_s
        await call
        after_s = endpoint.progress_s() - start_s
        await endpoint.close()
        return before_s, during_s, after_s

    with serving(lambda number, body: slowly(0.6, answer("[bet]"))) as (url, _):
        before_s, during_s, after_s = asyncio.run(run(url))
    assert before_s < 0 < 0.3 <= during_s < 0.6 <= after_s


def test_a_server_that_stays_down_fails_the_player() -> None:
    with serving(lambda number, body: (500, {})) as (url, bodies):
        (error,), use = ask(settings(url))
    assert isinstance(error, PlayerFailed)
    assert "endpoint m@http://127.0.0.1" in str(error)
    assert (use.calls, use.retries, use.errors, len(bodies)) == (1, 2, 1, 3)


def test_what_another_attempt_cannot_cure_is_the_users() -> None:
    with serving(lambda number, body: (401, {"error": {"message": "wrong key"}})) as (url, bodies):
        (error,), _ = ask(settings(url))
    assert isinstance(error, UserError)
    assert "401" in str(error) and "wrong key" in str(error)
    assert len(bodies) == 1


def test_a_server_that_is_gone_ends_the_arena() -> None:
    errors, use = ask(settings("http://127.0.0.1:9/v1", retries=0), calls=MOST_FAILURES)
    assert [isinstance(error, PlayerFailed) for error in errors] == [True] * (MOST_FAILURES - 1) + [False]
    assert isinstance(errors[-1], UserError) and "times in a row" in str(errors[-1])
    assert use.errors == MOST_FAILURES


def test_a_run_waits_for_a_server_that_is_gone() -> None:
    errors, _ = ask(settings("http://127.0.0.1:9/v1", retries=0), calls=MOST_FAILURES + 1, most_failures=None)
    assert all(isinstance(error, PlayerFailed) for error in errors)


def test_a_refused_request_is_the_users_only_until_one_was_answered() -> None:
    refusal: Reply = (400, {"error": {"message": "stopped by a filter"}})
    with serving(lambda number, body: answer("[bet]") if number == 0 else refusal) as (url, bodies):
        (text, error), use = ask(settings(url), calls=2)
    assert text == "[bet]" and isinstance(error, PlayerFailed) and "stopped by a filter" in str(error)
    assert (use.retries, len(bodies)) == (0, 2)
    with serving(lambda number, body: refusal) as (url, _):
        (error,), _ = ask(settings(url))
    assert isinstance(error, UserError)


@pytest.mark.parametrize("nonsense", ["<html>", {"choices": []}, {"detail": "hello"}, []])
def test_an_answer_of_another_protocol_fails_the_player(nonsense: Any) -> None:
    with serving(lambda number, body: (200, nonsense)) as (url, _):
        (error,), use = ask(settings(url))
    assert isinstance(error, PlayerFailed)
    assert use.errors == 1


def test_a_chat_that_exceeds_the_models_context_says_so() -> None:
    message = "This model's maximum context length is 512 tokens."
    with serving(lambda number, body: (400, {"error": {"message": message}})) as (url, _):
        (error,), _ = ask(settings(url))
    assert isinstance(error, PromptTooLong)


def test_a_match_is_played_with_the_frameworks_prompt() -> None:
    with serving(lambda number, body: answer("I think. [bet]")) as (url, bodies):
        episode = play_kuhn(settings(url))
    assert episode.end_reason == "finished"
    assert (episode.turns[0].action, episode.turns[0].text) == ("bet", "I think. [bet]")
    prompt = bodies[0]["messages"][0]["content"]
    assert make("kuhn_poker", 3).observe(0) in prompt
    assert "in square brackets" in prompt


def test_an_illegal_answer_is_retried_with_the_reason_and_then_forfeits() -> None:
    with serving(lambda number, body: answer(None if number else "[raise]")) as (url, bodies):
        episode = play_kuhn(settings(url))
    assert (episode.end_reason, episode.forfeit_by, episode.returns) == ("forfeit", 0, (-1.0, 1.0))
    assert "'raise' is not one of" in bodies[1]["messages"][0]["content"]


def test_a_copy_goes_on_by_itself() -> None:
    """Continuations of a match are played by copies of its players (`rollout.branches`)."""

    async def run(url: str) -> None:
        endpoint = Endpoint(settings(url), ROLLOUT.model_copy(update={"context": "conversation"}))
        game, player = make("kuhn_poker", 3), endpoint.player()
        await player.act(game, 0, "first", None)
        await copy.copy(player).act(game, 0, "in a continuation", None)
        await player.act(game, 0, "second", None)
        await endpoint.close()

    with serving(lambda number, body: answer("[bet]")) as (url, bodies):
        asyncio.run(run(url))
    assert [len(body["messages"]) for body in bodies] == [1, 3, 3]
    assert "in a continuation" not in str(bodies[2])


def test_in_a_conversation_the_chat_grows() -> None:
    with serving(lambda number, body: answer("[raise]")) as (url, bodies):
        play_kuhn(settings(url), ROLLOUT.model_copy(update={"context": "conversation"}))
    assert [message["role"] for message in bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert bodies[1]["messages"][1]["content"] == "[raise]"


def test_a_match_whose_player_does_not_answer_is_void() -> None:
    with serving(lambda number, body: (500, {})) as (url, _):
        episode = play_kuhn(settings(url, retries=0))
    assert episode.end_reason == "void"
    assert episode.error is not None and "endpoint m@" in episode.error
