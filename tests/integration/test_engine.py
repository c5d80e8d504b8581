"""vLLM itself, without Ray: what it samples, what the learner makes of it, and what happens when weights change."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from spiral.config import Config
from spiral.learn.learner import Learner
from spiral.learn.weights import exported_weights, publish
from spiral.rollout.generator import Generator
from spiral.types import Match, WeightsRef

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR")
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{len(os.sched_getaffinity(0)) - 1}"


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


def publish_to(directory: Path, learner: Learner, version: int) -> WeightsRef:
    return publish(exported_weights(learner._model.state_dict(), torch.float32), [directory], version)


def test_logprobs_agree_after_a_sync_and_disagree_when_it_is_broken(
    smoke_config: Config, model_dir: Path, tmp_path: Path
) -> None:
    """The measure that guards a run must see a generator that kept the old weights under the new version's name."""

    async def check() -> None:
        learner = Learner(smoke_config, model_dir)
        async with running(smoke_config, model_dir) as generator:
            first = learner.step(1, 0, await generator.play(matches(32)))
            await generator.load(publish_to(tmp_path, learner, 1))
            synced = learner.step(2, 1, await generator.play(matches(32, first=32)))
            generator._engine.version = 2  # claims the new version without having loaded it
            broken = learner.step(3, 2, await generator.play(matches(32, first=64)))
        assert first["train/logprob_diff_max"] <= 1e-4
        assert synced["train/logprob_diff_max"] <= 1e-4
        assert broken["train/logprob_diff_max"] > 1e-3

    asyncio.run(check())


def test_weights_change_under_requests_in_flight(smoke_config: Config, model_dir: Path, tmp_path: Path) -> None:
    """Requests are kept and say that two versions sampled them; nothing is read from the old version's cache after."""

    async def check() -> None:
        rollout = smoke_config.rollout.model_copy(update={"max_tokens": 200})
        learner = Learner(smoke_config, model_dir)
        shared = tuple(5 + i % 20 for i in range(100))  # a prefix of several cache blocks
        with torch.no_grad():  # a model that rarely ends its answers keeps its requests in flight
            learner._model.lm_head.weight[learner._tokenizer.eos_token_id] = 0
            learner._model.lm_head.weight.mul_(0.1)
        async with running(smoke_config.model_copy(update={"rollout": rollout}), model_dir) as generator:
            engine = generator._engine
            await generator.load(publish_to(tmp_path, learner, 1))
            requests = [asyncio.create_task(engine.sample((*shared, 30 + i % 9))) for i in range(64)]
            await asyncio.sleep(0.3)
            with torch.no_grad():
                for parameter in learner._model.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
            await generator.load(publish_to(tmp_path, learner, 2))
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


def test_scores_are_the_models_own_probabilities(smoke_config: Config, model_dir: Path) -> None:
    """log pi(answer | prompt) from vLLM against transformers' forward pass."""
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
        generators = smoke_config.generators.model_copy(update={"max_model_len": 40})
        config = smoke_config.model_copy(update={"generators": generators})
        async with running(config, model_dir) as generator:
            _, tic_tac_toe = await generator.play(matches(2))
        assert tic_tac_toe.end_reason == "void"
        return tic_tac_toe.error

    error = asyncio.run(play())
    assert error is not None
    assert "max_model_len=40" in error
