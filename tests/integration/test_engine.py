"""The real engine and learner in one process, without Ray: log-probabilities, weight updates and LoRA adapters."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spiral.config import Config
from spiral.learn.learner import Learner
from spiral.rollout.generator import Generator
from spiral.types import Match, WeightsRef


def matches(num: int, first: int = 0) -> list[Match]:
    games = ("kuhn_poker", "textarena/TicTacToe-v0")
    return [Match(id=first + i, game=games[i % 2], seed=first + i, players=("policy", "policy")) for i in range(num)]


@asynccontextmanager
async def running(config: Config, model_dir: Path) -> AsyncIterator[Generator]:
    generator = Generator(0, config, model_dir)
    await generator.start()
    try:
        yield generator
    finally:
        generator._engine.shutdown()


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
        async with running(config, model_dir) as generator:
            first = learner.step(1, 0, await generator.play(matches(32)))
            await generator.load(publish(learner, 1))
            synced = learner.step(2, 1, await generator.play(matches(32, first=32)))
            generator._engine.version = 2  # reports the new version without having loaded it
            broken = learner.step(3, 2, await generator.play(matches(32, first=64)))
        assert first["train/logprob_diff_max"] <= 1e-4
        assert synced["train/logprob_diff_max"] <= 1e-4
        assert broken["train/logprob_diff_max"] > 1e-3

    asyncio.run(check())


def test_weights_change_under_requests_in_flight(smoke_config: Config, model_dir: Path, tmp_path: Path) -> None:
    """Requests are kept and report both versions; later requests do not use the cache of the old version."""

    async def check() -> None:
        config = changed(smoke_config, rollout={"max_tokens": 200}, weights={"dir": tmp_path})
        learner = Learner(config, model_dir)
        shared = tuple(5 + i % 20 for i in range(100))  # a prefix of several cache blocks
        with torch.no_grad():  # rarely sampling the end of an answer keeps requests in flight
            learner._model.lm_head.weight[learner._tokenizer.eos_token_id] = 0
            learner._model.lm_head.weight.mul_(0.1)
        async with running(config, model_dir) as generator:
            engine = generator._engine
            await generator.load(publish(learner, 1))
            requests = [asyncio.create_task(engine.sample((*shared, 30 + i % 9))) for i in range(64)]
            await engine.score(shared, (5,))  # served in order: every request has a token now
            with torch.no_grad():
                for parameter in learner._model.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
            await generator.load(publish(learner, 2))
            fresh = await engine.sample((*shared, 7))
            completions = await asyncio.gather(*requests)
        spanning = [c for c in completions if (c.min_version, c.max_version) == (1, 2)]
        assert spanning, "no request was in flight while the weights changed"
        assert (fresh.min_version, fresh.max_version) == (2, 2)
        sequence = torch.tensor([(*shared, 7, *fresh.token_ids)])
        plain = AutoModelForCausalLM.from_pretrained(model_dir)
        plain.load_state_dict(learner._model.state_dict())
        with torch.no_grad():
            logprobs = plain(sequence).logits[0, len(shared) : -1].log_softmax(-1)
        expected = logprobs.gather(1, sequence[0, len(shared) + 1 :, None])[:, 0]
        assert (expected - torch.tensor(fresh.logprobs)).abs().max() <= 1e-4

    asyncio.run(check())


def test_scores_are_the_log_probabilities_of_the_model(smoke_config: Config, model_dir: Path) -> None:
    """log pi(answer | prompt) from vLLM, against a forward pass in transformers."""
    prompt, answer = (5, 6, 7, 8, 9), (10, 11)

    async def score() -> float:
        async with running(smoke_config, model_dir) as generator:
            return await generator._engine.score(prompt, answer)

    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    expected = float(logprobs[len(prompt) - 1, answer[0]] + logprobs[len(prompt), answer[1]])
    assert asyncio.run(score()) == pytest.approx(expected, abs=1e-4)


def test_a_prompt_that_does_not_fit_makes_the_episode_void(smoke_config: Config, model_dir: Path) -> None:
    async def play() -> str | None:
        config = changed(smoke_config, generators={"max_model_len": 40})
        async with running(config, model_dir) as generator:
            _, tic_tac_toe = await generator.play(matches(2))
        assert tic_tac_toe.end_reason == "void"
        return tic_tac_toe.error

    error = asyncio.run(play())
    assert error is not None
    assert "max_model_len=40" in error


# --- LoRA


LORA = {"lora_rank": 4, "learning_rate": 1e-2}


def test_adapters_agree_after_each_sync_and_only_the_newest_is_loaded(
    smoke_config: Config, model_dir: Path, tmp_path: Path
) -> None:
    """Three versions, far enough apart that a stale adapter would be noticed."""

    async def check() -> None:
        config = changed(smoke_config, learner=LORA, weights={"dir": tmp_path})
        learner = Learner(config, model_dir)
        async with running(config, model_dir) as generator:
            for version in range(3):
                await generator.load(publish(learner, version))
                assert list(await generator._engine._llm.list_loras()) == [1]
                episodes = await generator.play(matches(32, first=32 * version))
                assert learner.step(version + 1, version, episodes)["train/logprob_diff_max"] <= 1e-4
            generator._engine.version = 3  # reports the new version without having loaded it
            broken = learner.step(4, 3, await generator.play(matches(32, first=96)))
        assert broken["train/logprob_diff_max"] > 1e-3
        assert sorted(path.name for path in tmp_path.glob("*/*")) == ["v000001", "v000002"]

    asyncio.run(check())


def test_an_adapter_changes_under_requests_in_flight(smoke_config: Config, model_dir: Path, tmp_path: Path) -> None:
    """Requests continue with the new adapter, and their whole KV cache is recomputed with it."""

    async def check() -> None:
        config = changed(smoke_config, rollout={"max_tokens": 200}, learner=LORA, weights={"dir": tmp_path})
        learner = Learner(config, model_dir)
        with torch.no_grad():  # rarely sampling the end of an answer keeps requests in flight
            learner._model.lm_head.weight[learner._tokenizer.eos_token_id] = 0
            learner._model.lm_head.weight.mul_(0.1)
        prompt = tuple(5 + i % 20 for i in range(100))
        base = tmp_path / "base"
        plain = AutoModelForCausalLM.from_pretrained(model_dir)
        plain.lm_head.weight.data.copy_(learner._model.lm_head.weight)
        plain.save_pretrained(base)
        AutoTokenizer.from_pretrained(model_dir).save_pretrained(base)
        async with running(config, base) as generator:
            engine = generator._engine
            await generator.load(publish(learner, 1))
            requests = [asyncio.create_task(engine.sample((*prompt, 30 + i % 9))) for i in range(64)]
            await engine.score(prompt, (5,))  # served in order: every request has a token now
            for name, parameter in learner._model.named_parameters():
                if ".lora_" in name:
                    parameter.data.add_(0.1 * torch.randn_like(parameter))
            await generator.load(publish(learner, 2))
            assert list(await engine._llm.list_loras()) == [1]
            completions = await asyncio.gather(*requests)
        spanning = [(i, c) for i, c in enumerate(completions) if (c.min_version, c.max_version) == (1, 2)]
        assert spanning, "no request was in flight while the adapter changed"
        index, completion = max(spanning, key=lambda pair: len(pair[1].token_ids))
        start = len(prompt) + 1
        sequence = torch.tensor([(*prompt, 30 + index % 9, *completion.token_ids)])
        learner._model.set_attn_implementation("sdpa")
        with torch.no_grad():
            logprobs = learner._model(sequence).logits[0, start - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(1, sequence[0, start:, None])[:, 0]
        difference = (expected - torch.tensor(completion.logprobs)).abs()
        assert difference.max() > 1e-3, "the first tokens were sampled with the old adapter"
        assert difference[-1] <= 1e-4, "the last ones, and the keys and values they attend to, are from the new adapter"

    asyncio.run(check())
