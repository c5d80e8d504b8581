"""Learner and engine give up a GPU's memory and continue as they were. The engine's tests need vLLM's CUDA build."""

import asyncio
from pathlib import Path

import pytest
import torch

from spiral.config import Config, GeneratorsConfig, load_config
from spiral.learn.learner import Learner
from spiral.rollout.environment import engine_environment
from spiral.types import WeightsRef
from tests.learners import config, episodes, model_dir, weights
from tests.unit.test_offload import bytes_on_device

__all__ = ["model_dir"]  # a fixture

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("options", [{"kl_coef": 0.1}, {"dtype": "bfloat16"}, {"lora_rank": 4, "dtype": "bfloat16"}])
def test_a_learner_leaves_the_gpu_and_continues(model_dir: Path, options: dict[str, object]) -> None:
    one = Learner(config(gpus=1, **options), model_dir)
    one.step(1, 0, episodes(1))
    expected = {name: tensor.cpu() for name, tensor in weights(one).items()}
    held, own = torch.cuda.memory_allocated(), bytes_on_device(one)
    one.offload()
    assert bytes_on_device(one) == 0
    assert torch.cuda.memory_allocated() <= held - own
    one.restore()
    assert all(torch.equal(tensor.cpu(), expected[name]) for name, tensor in weights(one).items())
    one.step(2, 1, episodes(2))


@pytest.mark.parametrize("lora_rank", [0, 8])
def test_an_engine_frees_its_memory_and_samples_with_the_weights_that_wake_it(
    lora_rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in engine_environment(GeneratorsConfig(gpus=1)).items():
        monkeypatch.setenv(name, value)
    pytest.importorskip("vllm")
    from spiral import models
    from spiral.rollout.engine import Engine
    from tests.integration.test_engine import tokens

    overrides = ["generators.gpus=1", "learner.gpus=1", "generators.colocated=true", "model.dtype=bfloat16"]
    overrides += ["generators.gpu_memory_utilization=0.5", f"learner.lora_rank={lora_rank}", f"weights.dir={tmp_path}"]
    settings: Config = load_config("smoke", overrides)
    directory = models.resolve(settings)

    async def check() -> None:
        engine = Engine.start(directory, settings, 0)
        awake, total = torch.cuda.mem_get_info()
        try:
            learner = Learner(settings, directory) if lora_rank else None
            reference = learner.publish(0) if learner else WeightsRef(version=0, location=str(directory))
            assert reference is not None
            await engine.load(reference)
            before = await engine.score(tokens((5, 6, 7)), tokens((8, 9)))
            await engine.sleep()
            assert torch.cuda.mem_get_info()[0] - awake > 0.4 * total
            await engine.load(reference)
            after = await engine.score(tokens((5, 6, 7)), tokens((8, 9)))
            assert after == pytest.approx(before, abs=1e-3)
        finally:
            engine.shutdown()

    asyncio.run(check())
