"""How long it takes until an engine that plays has the learner's new weights, by each way that they can travel.

Learner and engine share a GPU, except with nccl, where the engine has the second one. After each publish the sampler's
logprobs are compared with the learner's, which has changed its weights at random.
"""

import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.gpu.learner import episode, policy_turn
from benchmarks.gpu.shape import QWEN3_4B, Scale, random_model
from spiral.config import Config, GeneratorsConfig
from spiral.learn.kernels.packing import make_batch
from spiral.learn.learner import Learner
from spiral.learn.model.sharding import untied
from spiral.learn.samples import make_samples, score_turns
from spiral.rollout.environment import engine_environment
from spiral.storage.weight_files import verify

if TYPE_CHECKING:
    from spiral.rollout.engine import Engine

ROUNDS = 3
PROMPT_TOKENS, ANSWER_TOKENS, NUM_PROMPTS = 32, 16, 8


def measure(scale: Scale, *, transport: str) -> dict[str, float]:
    """`transport` is files, ipc or nccl. A rehearsal takes a file instead of the last two."""
    os.environ.update(engine_environment(GeneratorsConfig(gpus=scale.gpus)))  # before vllm is imported
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # for the handles of CUDA IPC
    with random_model(scale.shape(QWEN3_4B), scale) as model_dir:
        return asyncio.run(_measure(scale, transport, model_dir))


async def _measure(scale: Scale, transport: str, model_dir: Path) -> dict[str, float]:
    from spiral.rollout.engine import Engine

    if scale.rehearse and transport != "files":
        from tests.integration import handover

        transport = handover.HandoverInfo.backend
    settings = config(model_dir, transport, scale)
    learner = Learner(settings, model_dir)
    if transport == "nccl":
        os.environ["CUDA_VISIBLE_DEVICES"] = "1"  # of the engine's process: this one has its GPU already
    engine = Engine.start(model_dir, settings, seed=0)
    rounds = []
    try:
        if transport == "files":
            way: Files | Transfer = Files(learner, engine)
        else:
            way = await Transfer.connected(learner, engine, transport, model_dir)
        for version in range(1, ROUNDS + 2):
            disturb(learner)
            start = time.perf_counter()
            parts = await way.publish(version)
            took = {"publish_s": time.perf_counter() - start} | parts
            rounds.append(took | {"logprob_diff_max": await difference(learner, engine, version)})
    finally:
        engine.shutdown()
        learner.close()
    sent = untied(learner._trainable.live(learner._policy)).values()
    size = learner._trainable.published_dtype.itemsize
    figures = {key: statistics.median(one[key] for one in rounds[1:]) for key in rounds[0]}
    figures["logprob_diff_max"] = max(one["logprob_diff_max"] for one in rounds)
    return figures | {"gigabytes": sum(tensor.numel() for tensor in sent) * size / 1e9}


def config(model_dir: Path, transport: str, scale: Scale) -> Config:
    """An engine that leaves most of the GPU to the learner."""
    settings = Config.model_validate(
        {
            "steps": 1000,
            "model": {"name": str(model_dir), "dtype": "bfloat16"},
            "games": [{"id": "kuhn_poker"}],
            "rollout": {"max_tokens": ANSWER_TOKENS},
            "generators": {
                "gpus": scale.gpus,
                "max_model_len": 2048,
                "max_num_seqs": 64,
                "gpu_memory_utilization": 0.35,
            },
            "learner": {"gpus": scale.gpus},
        }
    )
    # Not validated: ipc is vLLM's, but no transport of a run.
    weights = settings.weights.model_copy(update={"transport": transport})
    return settings.model_copy(update={"weights": weights})


class Files:
    """The learner writes files, the engine reads them, as in a run on one machine."""

    def __init__(self, learner: Learner, engine: "Engine") -> None:
        self._learner = learner
        self._engine = engine

    async def publish(self, version: int) -> dict[str, float]:
        start = time.perf_counter()
        weights = self._learner.publish(version)
        assert weights is not None
        written = time.perf_counter()
        verify(weights)
        await self._engine.load(weights)
        return {"write_s": written - start, "load_s": time.perf_counter() - written}


class Transfer:
    """The learner sends the weights with one of vLLM's weight-transfer engines."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    @classmethod
    async def connected(cls, learner: Learner, engine: "Engine", transport: str, model_dir: Path) -> "Transfer":
        from spiral.learn.weights import transfer

        client = EngineClient(engine)
        source = transfer.LiveWeights(
            lambda: learner._trainable.live(learner._policy), learner._trainable.published_dtype
        )
        info = _init_info(transport, model_dir)
        learner._publisher._client = client
        learner._publisher._transfer = await asyncio.to_thread(transfer.connect, info, client, source)
        return cls(learner)

    async def publish(self, version: int) -> dict[str, float]:
        await asyncio.to_thread(self._learner.send, version)
        return {}


def _init_info(transport: str, model_dir: Path) -> Any:
    """The learner's end of a transfer to one engine on this machine."""
    from spiral.learn.weights import transfer

    if transport == "nccl":
        return transfer.nccl(rank=0, num_receivers=1, address="127.0.0.1")
    if transport == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=0, packed=True)
    from tests.integration.handover import HandoverInfo

    return HandoverInfo(rank=0, file=str(model_dir / "sent.safetensors"))


class EngineClient:
    """What vLLM's trainer side calls, for an engine of this process. The learner must send from another thread."""

    def __init__(self, engine: "Engine") -> None:
        self.version = 0
        self._engine = engine
        self._loop = asyncio.get_running_loop()

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._call(self._engine.connect(init_info))

    def start_weight_update(self) -> None:
        self._call(self._engine.begin_receive())

    def update_weights(self, update_info: Any) -> None:
        self._call(self._engine.receive(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call(self._engine.finish_receive(self.version))


@torch.no_grad()
def disturb(learner: Learner) -> None:
    """Change all weights a little: enough that an engine with the old ones would be found out."""
    for weight in untied(learner._trainable.live(learner._policy)).values():
        weight.add_(torch.randn_like(weight), alpha=0.005)


async def difference(learner: Learner, engine: "Engine", version: int) -> float:
    """The largest difference of a sampled token's logprob between the engine and the learner, in nats."""
    vocabulary = learner._model.config.vocab_size
    prompts = np.random.default_rng(version).integers(vocabulary, size=(NUM_PROMPTS, PROMPT_TOKENS), dtype=np.int32)
    completions = await asyncio.gather(*(engine.sample(prompt) for prompt in prompts))
    pairs = zip(prompts, completions, strict=True)
    episodes = [episode(number, (policy_turn(0, *pair),)) for number, pair in enumerate(pairs)]
    turns = score_turns(episodes, [[1.0]] * NUM_PROMPTS, gamma=1.0, format_penalty=0.0)
    device = "cuda" if next(learner._policy.parameters()).is_cuda else "cpu"
    batch = make_batch(make_samples(turns), range(NUM_PROMPTS), version, device)
    with torch.no_grad():
        logprob_T = learner._forward(batch).logprob_T
    return float((logprob_T - batch.behavior_logprob_T).abs().max())
