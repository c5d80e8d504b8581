"""The real engine and learner in one process, without Ray: LoRA adapters."""

import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from spiral.config import Config
from spiral.learn.learner import Learner
from spiral.rollout.engine import FROZEN
from spiral.types import BASE, PAST, POLICY, Completion, WeightsRef, past_self
from tests.integration.test_engine import DRIVERS, changed, matches, play_all, publish, running, tokens

LORA = {"lora_rank": 4, "learning_rate": 1e-2}


def test_adapters_agree_after_each_sync_and_only_the_newest_is_loaded(
    smoke_config: Config, model_dir: Path, tmp_path: Path
) -> None:
    """Three versions, far enough apart that a stale adapter would be noticed."""

    async def check() -> None:
        config = changed(smoke_config, learner=LORA, weights={"dir": tmp_path})
        learner = Learner(config, model_dir)
        async with running(config, model_dir) as sampler:
            for version in range(3):
                await sampler.engine.load(publish(learner, version))
                assert [set(ids) for ids in await sampler.engine._driver.call("list_loras")] == [{1}]
                episodes = await play_all(sampler, matches(32, first=32 * version))
                assert learner.step(version + 1, version, episodes)["train/logprob_diff_max"] <= 1e-4
            sampler.engine.version = 3  # reports the new version without having loaded it
            broken = learner.step(4, 3, await play_all(sampler, matches(32, first=96)))
        assert broken["train/logprob_diff_max"] > 1e-3
        assert sorted(path.name for path in tmp_path.glob("*/v*")) == ["v000001", "v000002"]

    asyncio.run(check())


@DRIVERS
def test_policy_and_base_are_told_apart_in_one_batch(
    smoke_config: Config, model_dir: Path, tmp_path: Path, in_process: bool
) -> None:
    """Requests with the adapter and without it run side by side, and each gets the distribution of its own model.

    The head has an adapter, too.
    """
    prompt = [5 + i % 20 for i in range(40)]
    lora = LORA | {"lora_targets": [*smoke_config.learner.lora_targets, "lm_head"]}
    config = changed(smoke_config, rollout={"max_tokens": 8}, learner=lora, weights={"dir": tmp_path})
    torch.manual_seed(0)
    learner = Learner(config, model_dir)
    for name, parameter in learner._model.named_parameters():
        if ".lora_" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    learner._model.set_attn_implementation("sdpa")
    models = {BASE: AutoModelForCausalLM.from_pretrained(model_dir), POLICY: learner._model}

    async def sample() -> list[tuple[str, Completion]]:
        async with running(config, model_dir, in_process=in_process) as sampler:
            await sampler.engine.load(publish(learner, 1))
            labels = [POLICY, BASE] * 16
            return list(
                zip(
                    labels,
                    await asyncio.gather(*(sampler.engine.sample(tokens(prompt), p) for p in labels)),
                    strict=True,
                )
            )

    worst = dict.fromkeys(models, 0.0)
    for label, completion in asyncio.run(sample()):
        sequence = torch.tensor([[*prompt, *completion.token_ids.tolist()]])
        with torch.no_grad():
            logprobs = models[label](sequence).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(1, sequence[0, len(prompt) :, None])[:, 0]
        worst[label] = max(worst[label], float((expected - torch.tensor(completion.logprobs.tolist())).abs().max()))
    assert max(worst.values()) <= 1e-4, worst


@DRIVERS
def test_past_selves_play_beside_the_policy_in_one_batch(
    smoke_config: Config, model_dir: Path, tmp_path: Path, in_process: bool
) -> None:
    """Two past selves, the policy and the base model, with every place for adapters taken: each samples as in peft.

    Then one past self goes, and another takes its place.
    """
    prompt = [5 + i % 20 for i in range(40)]
    league = {"opponents": {POLICY: 1.0, PAST: 1.0}, "past_keep": 1}
    config = changed(smoke_config, rollout={"max_tokens": 8}, learner=LORA, weights={"dir": tmp_path}, league=league)
    torch.manual_seed(0)
    learner = Learner(config, model_dir)
    kept: list[WeightsRef] = []
    for version in range(4):
        for name, parameter in learner._model.named_parameters():
            if ".lora_" in name:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        published = publish(learner, version)
        copied = Path(shutil.copytree(published.location, tmp_path / "copies" / str(version)))
        kept.append(dataclasses.replace(published, location=str(copied)))

    async def sample() -> list[tuple[str, Completion]]:
        sampled: list[tuple[str, Completion]] = []
        async with running(config, model_dir, in_process=in_process) as sampler:
            engine = sampler.engine
            for past in (kept[:2], kept[1:3], kept[1:3]):  # the last time nothing changes
                await engine.load(kept[3], past)
                numbers = {1, *(2 + one.version for one in past)}
                assert [set(ids) for ids in await engine._driver.call("list_loras")] == [numbers]
                labels = [POLICY, BASE, *(past_self(one.version) for one in past)] * 8
                completions = await asyncio.gather(*(engine.sample(tokens(prompt), label) for label in labels))
                sampled += zip(labels, completions, strict=True)
            with pytest.raises(KeyError):
                await engine.sample(tokens(prompt), past_self(0))
        return sampled

    models = {BASE: AutoModelForCausalLM.from_pretrained(model_dir)}
    for version, one in enumerate(kept):
        plain = AutoModelForCausalLM.from_pretrained(model_dir)
        models[past_self(version) if version < 3 else POLICY] = PeftModel.from_pretrained(plain, one.location)
    worst = dict.fromkeys(models, 0.0)
    others = dict.fromkeys(models, 0.0)  # with the adapter of another model, as a check of the check
    for label, completion in asyncio.run(sample()):
        assert completion.min_version == completion.max_version == (3 if label == POLICY else FROZEN)
        sequence = torch.tensor([[*prompt, *completion.token_ids.tolist()]])
        found = torch.tensor(completion.logprobs.tolist())
        for of, model in models.items():
            with torch.no_grad():
                logprobs = model(sequence).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            difference = float((logprobs.gather(1, sequence[0, len(prompt) :, None])[:, 0] - found).abs().max())
            if of == label:
                worst[label] = max(worst[label], difference)
            else:
                others[label] = max(others[label], difference)
    assert max(worst.values()) <= 1e-4, worst
    assert min(others.values()) > 1e-2, others


@DRIVERS
def test_an_adapter_changes_under_requests_in_flight(
    smoke_config: Config, model_dir: Path, tmp_path: Path, in_process: bool
) -> None:
    """Requests continue with the new adapter, and their whole KV cache is recomputed with it."""

    async def check() -> None:
        config = changed(smoke_config, rollout={"max_tokens": 200}, learner=LORA, weights={"dir": tmp_path})
        learner = Learner(config, model_dir)
        with torch.no_grad():  # rarely sampling the end of an answer keeps requests in flight
            learner._model.lm_head.weight[AutoTokenizer.from_pretrained(model_dir).eos_token_id] = 0
            learner._model.lm_head.weight.mul_(0.1)
        prompt = tuple(5 + i % 20 for i in range(100))
        base = tmp_path / "base"
        plain = AutoModelForCausalLM.from_pretrained(model_dir)
        plain.lm_head.weight.data.copy_(learner._model.lm_head.weight)
        plain.save_pretrained(base)
        AutoTokenizer.from_pretrained(model_dir).save_pretrained(base)
        async with running(config, base, in_process=in_process) as sampler:
            engine = sampler.engine
            await sampler.engine.load(publish(learner, 1))
            requests = [asyncio.create_task(engine.sample(tokens((*prompt, 30 + i % 9)))) for i in range(64)]
            await asyncio.sleep(0)
            await engine.score(tokens(prompt), tokens((5,)))  # served in order: every request has a token now
            for name, parameter in learner._model.named_parameters():
                if ".lora_" in name:
                    parameter.data.add_(0.1 * torch.randn_like(parameter))
            await sampler.engine.load(publish(learner, 2))
            assert [set(ids) for ids in await engine._driver.call("list_loras")] == [{1}]
            completions = await asyncio.gather(*requests)
        spanning = [(i, c) for i, c in enumerate(completions) if (c.min_version, c.max_version) == (1, 2)]
        assert spanning, "no request was in flight while the adapter changed"
        index, completion = max(spanning, key=lambda pair: len(pair[1].token_ids))
        start = len(prompt) + 1
        sequence = torch.tensor([[*prompt, 30 + index % 9, *completion.token_ids.tolist()]])
        learner._model.set_attn_implementation("sdpa")
        with torch.no_grad():
            logprobs = learner._model(sequence).logits[0, start - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(1, sequence[0, start:, None])[:, 0]
        difference = (expected - torch.tensor(completion.logprobs.tolist())).abs()
        assert difference.max() > 1e-3, "the first tokens were sampled with the old adapter"
        assert difference[-1] <= 1e-4, "the last ones, and the keys and values they attend to, are from the new adapter"

    asyncio.run(check())


@DRIVERS
def test_a_tied_head_changes_with_the_embedding(
    smoke_config: Config, model_dir: Path, tmp_path: Path, in_process: bool
) -> None:
    """On CPUs vLLM computes with packed copies of weights: that of a head must follow the embedding it is tied to."""
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    tied = type(plain)(type(plain.config)(**plain.config.to_dict() | {"tie_word_embeddings": True}))
    directories = [tmp_path / name for name in ("before", "after")]
    for directory in directories:
        with torch.no_grad():
            tied.model.embed_tokens.weight.mul_(2.0).add_(0.05 * torch.randn_like(tied.model.embed_tokens.weight))
        tied.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    prompt, answer = [5, 6, 7, 8, 9], [10, 11]

    async def score() -> list[float]:
        async with running(smoke_config, directories[0], in_process=in_process) as sampler:
            first = await sampler.engine.score(tokens(prompt), tokens(answer))
            await sampler.engine.load(WeightsRef(version=1, location=str(directories[1])))
            return [first, await sampler.engine.score(tokens(prompt), tokens(answer))]

    for directory, measured in zip(directories, asyncio.run(score()), strict=True):
        model = AutoModelForCausalLM.from_pretrained(directory)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        with torch.no_grad():
            logprobs = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert measured == pytest.approx(float(logprobs.gather(1, torch.tensor(answer)[:, None]).sum()), abs=1e-4)
