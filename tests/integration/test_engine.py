"""The real engine and learner in one process, without Ray: log-probabilities, figures and weight updates."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from spiral.config import Config
from spiral.game import make
from spiral.game.solve import DecisionPoint
from spiral.learn.batching import micro_batches
from spiral.learn.kernels.packing import make_batch
from spiral.learn.learner import Learner
from spiral.learn.rank import SINGLE_RANK
from spiral.learn.samples import make_samples, score_turns
from spiral.rollout.engine import Engine
from spiral.rollout.game_calls import GameCalls
from spiral.rollout.play import play
from spiral.rollout.prompt import MessageBuilder, Prompter
from spiral.rollout.sampler import Sampler
from spiral.types import Completion, Episode, Match, WeightsRef

DRIVERS = pytest.mark.parametrize("in_process", [True, False], ids=["in_process", "own_process"])


def matches(num: int, first: int = 0) -> list[Match]:
    games = ("kuhn_poker", "textarena/TicTacToe-v0")
    return [Match(id=first + i, game=games[i % 2], seed=first + i, players=("policy", "policy")) for i in range(num)]


def tokens(ids: Sequence[int]) -> NDArray[np.int32]:
    return np.array(ids, np.int32)


@asynccontextmanager
async def running(config: Config, model_dir: Path, *, in_process: bool = True, seed: int = 0) -> AsyncIterator[Sampler]:
    engine = Engine.start(model_dir, config, seed, in_process=in_process)
    prompter = Prompter(AutoTokenizer.from_pretrained(model_dir), MessageBuilder.of(config.rollout))
    try:
        yield Sampler(engine, prompter, conversation=False)
    finally:
        engine.shutdown()


async def play_all(sampler: Sampler, wanted: Sequence[Match]) -> list[Episode]:
    """Play matches of self-play at the same time."""
    calls = GameCalls()
    limits: dict[str, Any] = {"illegal_retries": 1, "move_timeout_s": 60.0, "calls": calls}
    return list(
        await asyncio.gather(*(play(match, (sampler.player(), sampler.player()), **limits) for match in wanted))
    )


def changed(config: Config, **sections: dict[str, object]) -> Config:
    """`config` with some keys of its sections replaced."""
    return Config.model_validate(
        config.model_dump() | {name: getattr(config, name).model_dump() | keys for name, keys in sections.items()}
    )


def publish(learner: Learner, version: int) -> WeightsRef:
    weights = learner.publish(version)
    assert weights is not None
    return weights


def test_logprobs_agree_after_a_sync_and_differ_without_one(
    smoke_config: Config, model_dir: Path, tmp_path: Path
) -> None:
    """train/logprob_diff_max must reveal a generator that reports the new version but kept the old weights."""

    async def check() -> None:
        config = changed(smoke_config, weights={"dir": tmp_path})
        learner = Learner(config, model_dir)
        async with running(config, model_dir) as sampler:
            first = learner.step(1, 0, await play_all(sampler, matches(32)))
            await sampler.engine.load(publish(learner, 1))
            synced = learner.step(2, 1, await play_all(sampler, matches(32, first=32)))
            sampler.engine.version = 2  # reports the new version without having loaded it
            broken = learner.step(3, 2, await play_all(sampler, matches(32, first=64)))
        assert first["train/logprob_diff_max"] <= 1e-4
        assert synced["train/logprob_diff_max"] <= 1e-4
        assert broken["train/logprob_diff_max"] > 1e-3

    asyncio.run(check())


@DRIVERS
def test_weights_change_under_requests_in_flight(
    smoke_config: Config, model_dir: Path, tmp_path: Path, in_process: bool
) -> None:
    """Requests are kept and report both versions; later requests do not use the cache of the old version."""

    async def check() -> None:
        config = changed(smoke_config, rollout={"max_tokens": 200}, weights={"dir": tmp_path})
        learner = Learner(config, model_dir)
        shared = tuple(5 + i % 20 for i in range(100))  # a prefix of several cache blocks
        with torch.no_grad():  # rarely sampling the end of an answer keeps requests in flight
            learner._model.lm_head.weight[AutoTokenizer.from_pretrained(model_dir).eos_token_id] = 0
            learner._model.lm_head.weight.mul_(0.1)
        async with running(config, model_dir, in_process=in_process) as sampler:
            engine = sampler.engine
            await sampler.engine.load(publish(learner, 1))
            requests = [asyncio.create_task(engine.sample(tokens((*shared, 30 + i % 9)))) for i in range(64)]
            await asyncio.sleep(0)
            await engine.score(tokens(shared), tokens((5,)))  # served in order: every request has a token now
            with torch.no_grad():
                for parameter in learner._model.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
            await sampler.engine.load(publish(learner, 2))
            fresh = await engine.sample(tokens((*shared, 7)))
            completions = await asyncio.gather(*requests)
        spanning = [c for c in completions if (c.min_version, c.max_version) == (1, 2)]
        assert spanning, "no request was in flight while the weights changed"
        assert (fresh.min_version, fresh.max_version) == (2, 2)
        sequence = torch.tensor([[*shared, 7, *fresh.token_ids.tolist()]])
        plain = AutoModelForCausalLM.from_pretrained(model_dir)
        plain.load_state_dict(learner._model.state_dict())
        with torch.no_grad():
            logprobs = plain(sequence).logits[0, len(shared) : -1].log_softmax(-1)
        expected = logprobs.gather(1, sequence[0, len(shared) + 1 :, None])[:, 0]
        assert (expected - torch.tensor(fresh.logprobs.tolist())).abs().max() <= 1e-4

    asyncio.run(check())


def test_scores_are_the_log_probabilities_of_the_model(smoke_config: Config, model_dir: Path) -> None:
    """log pi(answer | prompt) from vLLM, against a forward pass in transformers."""
    prompt, answer = (5, 6, 7, 8, 9), (10, 11)

    async def score() -> float:
        async with running(smoke_config, model_dir) as sampler:
            return await sampler.engine.score(tokens(prompt), tokens(answer))

    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    expected = float(logprobs[len(prompt) - 1, answer[0]] + logprobs[len(prompt), answer[1]])
    assert asyncio.run(score()) == pytest.approx(expected, abs=1e-4)


def test_a_prompt_that_does_not_fit_makes_the_episode_void(smoke_config: Config, model_dir: Path) -> None:
    async def play_one() -> Episode:
        config = changed(smoke_config, generators={"max_model_len": 40})
        async with running(config, model_dir) as sampler:
            return (await play_all(sampler, matches(2)))[1]

    tic_tac_toe = asyncio.run(play_one())
    assert tic_tac_toe.end_reason == "void"
    assert "max_model_len=40" in (tic_tac_toe.error or "")


@DRIVERS
def test_figures_count_what_was_sampled(smoke_config: Config, model_dir: Path, in_process: bool) -> None:
    async def check() -> None:
        async with running(smoke_config, model_dir, in_process=in_process) as sampler:
            engine = sampler.engine
            assert engine.figures().num_tokens == 0
            before_s = time.monotonic()
            episodes = await play_all(sampler, matches(32))
            turns = [turn for episode in episodes for turn in episode.turns]
            assert before_s < engine.progress_s() < time.monotonic()
            figures = engine.figures()
            assert figures.num_tokens == sum(len(turn.completion.token_ids) for turn in turns if turn.completion)
            assert figures.prefix_queries == sum(len(turn.prompt_ids) for turn in turns)
            assert 0 < figures.prefix_hits < figures.prefix_queries
            assert (figures.running, figures.waiting, figures.preemptions) == (0, 0, 0)
            assert 0 < figures.busy_s < figures.up_s
            assert figures.busy_s < figures.seat_s <= 32 * figures.busy_s
            assert figures.paused_s == 0
            await engine.load(WeightsRef(version=1, location=str(model_dir)))
            paused_s = engine.figures().paused_s
            await play_all(sampler, matches(2))
            assert 0 < paused_s == engine.figures().paused_s
            sampled = engine.figures().num_tokens
            playing = asyncio.create_task(play_all(sampler, matches(32)))
            while engine.figures().num_tokens == sampled:
                await asyncio.sleep(0.001)
            await engine.load(WeightsRef(version=2, location=str(model_dir)))
            await playing
            assert engine.figures().preemptions == 0, "requests that new weights interrupt are not preempted"
            playing = asyncio.create_task(play_all(sampler, matches(32)))
            sampled = engine.figures().num_tokens
            while engine.figures().num_tokens == sampled:
                await asyncio.sleep(0.001)
            await engine.sleep()  # on a GPU it would free its memory
            sampled = engine.figures().num_tokens
            await asyncio.sleep(1)
            assert engine.figures().num_tokens == sampled, "an engine that sleeps samples nothing"
            await engine.load(WeightsRef(version=3, location=str(model_dir)))
            turns = [turn for episode in await playing for turn in episode.turns]
            assert {turn.completion.max_version for turn in turns if turn.completion} == {2, 3}
            assert engine.figures().preemptions == 0

    asyncio.run(check())


@DRIVERS
def test_a_stop_string_ends_a_completion(smoke_config: Config, model_dir: Path, in_process: bool) -> None:
    """The tokens up to the one that completes it are returned: without it, the end of the sequence would follow."""
    config = changed(smoke_config, rollout={"stop": ["]"]})
    end = AutoTokenizer.from_pretrained(model_dir).eos_token_id

    async def check() -> None:
        async with running(config, model_dir, in_process=in_process) as sampler:
            turns = [turn for episode in await play_all(sampler, matches(32)) for turn in episode.turns]
            stopped = [turn.completion for turn in turns if turn.completion and turn.text.endswith("]")]
            assert len(stopped) > 10
            for completion in stopped:
                assert completion.finish_reason == "stop"
                assert end not in completion.token_ids
                assert len(completion.logprobs) == len(completion.token_ids)
                assert "]" not in sampler.prompter.read(completion.token_ids[:-1])[0]

    asyncio.run(check())


def test_the_seed_decides_what_is_sampled(smoke_config: Config, model_dir: Path) -> None:
    async def sampled(seed: int) -> list[list[int]]:
        async with running(smoke_config, model_dir, seed=seed) as sampler:
            completions: list[Completion] = [await sampler.engine.sample(tokens(range(5, 45))) for _ in range(4)]
            return [completion.token_ids.tolist() for completion in completions]

    first, again, other = (asyncio.run(sampled(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert len({tuple(completion) for completion in first}) > 1, "each completion repeats the same random numbers"


def test_a_request_that_is_cancelled_leaves_the_engine(smoke_config: Config, model_dir: Path) -> None:
    async def check() -> None:
        config = changed(smoke_config, rollout={"max_tokens": 200})
        async with running(config, model_dir) as sampler:
            request = asyncio.create_task(sampler.engine.sample(tokens(range(5, 45))))
            await asyncio.sleep(0)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await sampler.engine.score(tokens((5, 6)), tokens((7,)))
            figures = sampler.engine.figures()
            assert (figures.running, figures.waiting, figures.num_tokens) == (0, 0, 1)

    asyncio.run(check())


def test_a_step_that_fails_ends_all_requests_and_every_later_one(smoke_config: Config, model_dir: Path) -> None:
    def break_model(model: torch.nn.Module) -> None:
        del model.model.norm

    async def check() -> None:
        async with running(smoke_config, model_dir) as sampler:
            await sampler.engine._driver.call("apply_model", fn=break_model)
            prompt = tokens(range(5, 45))
            errors = await asyncio.gather(*(sampler.engine.sample(prompt) for _ in range(3)), return_exceptions=True)
            errors.append((await asyncio.gather(sampler.engine.sample(prompt), return_exceptions=True))[0])
        assert [type(error) for error in errors] == [RuntimeError] * 4
        assert all("the engine failed: AttributeError" in str(error) for error in errors)

    asyncio.run(check())


def test_a_tokenizer_without_a_pad_token_plays_trains_and_is_published(
    smoke_config: Config, model_dir: Path, tmp_path: Path
) -> None:
    """Llama's tokenizer has none. Nothing is padded, so nothing needs one."""
    padless = tmp_path / "padless"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    tokenizer.pad_token = model.config.pad_token_id = model.generation_config.pad_token_id = None
    model.save_pretrained(padless)
    tokenizer.save_pretrained(padless)
    assert AutoTokenizer.from_pretrained(padless).pad_token is None

    async def check() -> None:
        config = changed(smoke_config, weights={"dir": tmp_path / "weights"}, rollout={"context": "conversation"})
        learner = Learner(config, padless)
        async with running(config, padless) as sampler:
            for step in (1, 2):
                metrics = learner.step(step, step - 1, await play_all(sampler, matches(16, first=16 * step)))
                assert metrics["train/logprob_diff_max"] <= 1e-4
                await sampler.engine.load(publish(learner, step))
        learner.begin_save(tmp_path, {"step": 2})
        learner.finish_save()
        assert AutoTokenizer.from_pretrained(tmp_path / "checkpoints" / "step_000002").pad_token is None

    asyncio.run(check())


def test_in_bfloat16_a_temperature_scales_the_difference_between_sampler_and_learner_and_adds_none(
    smoke_config: Config, model_dir: Path
) -> None:
    """Logits that both round to bfloat16 differ by as much at any temperature T, so log-probabilities by 1 / T."""

    async def differences(driver: Any, temperature: float) -> NDArray[np.float64]:
        keys = {"model": {"dtype": "bfloat16"}, "rollout": {"temperature": temperature}}
        config = changed(smoke_config, **keys)
        learner = Learner(config, model_dir)
        engine = Engine(driver, config.rollout, config.generators.max_model_len)
        prompter = Prompter(AutoTokenizer.from_pretrained(model_dir), MessageBuilder.of(config.rollout))
        episodes = await play_all(Sampler(engine, prompter, conversation=False), matches(512))
        no_advantage = [(0.0,) * len(episode.turns) for episode in episodes]
        table = make_samples(score_turns(episodes, no_advantage, gamma=1.0, format_penalty=0.0))
        found = []
        for chosen, _ in micro_batches(table, range(len(table)), config.learner, SINGLE_RANK):
            batch = make_batch(table, chosen, current_version=0)
            with torch.no_grad():
                found.append((learner._forward(batch).logprob_T - batch.behavior_logprob_T).abs())
        return np.asarray(torch.cat(found).double())

    async def check() -> None:
        config = changed(smoke_config, model={"dtype": "bfloat16"})
        async with running(config, model_dir) as sampler:
            driver = sampler.engine._driver
            plain, sharper = [await differences(driver, temperature) for temperature in (1.0, 0.7)]
        assert plain.mean() > 1e-4, "the two round differently"
        for statistic in (
            np.mean,
            lambda values: np.sqrt(np.mean(values**2)),
            lambda values: np.quantile(values, 0.99),
        ):
            assert statistic(sharper) <= 1.1 / 0.7 * statistic(plain)

    asyncio.run(check())


@DRIVERS
def test_a_stop_string_ends_a_completion_and_its_probability_is_computed_without_an_end_token(
    smoke_config: Config, model_dir: Path, in_process: bool
) -> None:
    """The computed probability of an answer is how often it is sampled, though the model goes on without the stop."""

    async def check() -> None:
        config = changed(smoke_config, rollout={"max_tokens": 8, "stop": ("]",)})
        game = make("kuhn_poker", 0)
        point = DecisionPoint(role=0, info_state="", observation=game.observe(0), legal_actions=("check", "bet"))
        async with running(config, model_dir, in_process=in_process) as sampler:
            (scores,) = await sampler.action_logprobs("kuhn_poker", [point])
            messages = sampler.prompter.messages.build(game.spec, point.observation)
            prompt_ids = sampler.prompter.prompt_ids(messages)
            sampled = await asyncio.gather(*(sampler.engine.sample(prompt_ids) for _ in range(400)))
        texts = [sampler.prompter.read(completion.token_ids)[0] for completion in sampled]
        assert all(text.count("]") == text.endswith("]") for text in texts)
        for action, score in zip(point.legal_actions, scores, strict=True):
            frequency, expected = texts.count(f"[{action}]") / 400, math.exp(score)
            assert abs(frequency - expected) < 4 * math.sqrt(expected * (1 - expected) / 400)
        assert sum(map(math.exp, scores)) > 0.05

    asyncio.run(check())
