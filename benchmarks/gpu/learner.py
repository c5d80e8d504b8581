"""The learner on the Qwen3-4B shape: model FLOPs utilisation (MFU), peak memory, and how fast it writes its weights."""

import gc
import statistics
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.shape import QWEN3_4B, Scale, random_model
from benchmarks.rivals import seconds
from spiral.config import Config
from spiral.learn.learner import Learner
from spiral.models.shape import ModelShape
from spiral.planning.memory import LEARNER_SHARE, learner_memory
from spiral.types import Completion, Episode, Match, Turn

ROUNDS = 3
BATCH_TOKENS = 65_536
PEAK_FLOPS = {  # dense bfloat16, from NVIDIA's data sheets; the first name that occurs in the GPU's
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
}
SAVINGS: tuple[dict[str, bool], ...] = (
    {},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "offload_optimizer": True},
)


def measure(scale: Scale, *, pack_tokens: int, sample_tokens: int) -> dict[str, float]:
    """Steps on BATCH_TOKENS tokens, in packs of `pack_tokens`; half of each sample of `sample_tokens` is trained on."""
    shape, pack, length = scale.shape(QWEN3_4B), scale.of(pack_tokens), scale.of(sample_tokens)
    num_samples = scale.of(BATCH_TOKENS) // length
    with random_model(shape, scale) as model_dir:
        settings, planned = fitting(model_dir, pack, scale)
        learner = Learner(settings, model_dir)
        episodes = scripted(num_samples, length, shape["vocab_size"])
        learner.step(1, 0, episodes)  # warm-up: kernels are chosen, AdamW's moments made
        peak = _PeakMemory(scale)
        step_s = statistics.median(seconds(lambda n=n: learner.step(n, 0, episodes)) for n in range(2, ROUNDS + 2))
        peak_bytes = peak.bytes()
        write_s = statistics.median(seconds(lambda n=n: learner.publish(n)) for n in range(1, ROUNDS + 1))
        learner.close()
    flops = num_samples * model_flops(shape, length, length // 2) / step_s
    figures = {
        "tokens_per_s": num_samples * length / step_s,
        "tflops": flops / 1e12,
        "peak_gib": peak_bytes / 2**30,
        "plan_ratio": planned / peak_bytes,
        "write_s": write_s,
        "checkpointing": float(settings.learner.gradient_checkpointing),
        "offload": float(settings.learner.offload_optimizer),
    }
    peak_flops = 1e12 if scale.rehearse else _peak_flops(torch.cuda.get_device_name())
    return figures | ({"mfu": flops / peak_flops} if peak_flops else {})


def config(model_dir: Path, pack_tokens: int, scale: Scale, **learner: bool) -> Config:
    """A config with one optimizer step per step, over all samples."""
    return Config.model_validate(
        {
            "steps": 1000,
            "model": {"name": str(model_dir), "dtype": "bfloat16"},
            "games": [{"id": "kuhn_poker"}],
            "rollout": {"max_tokens": 1},
            "generators": {"max_model_len": pack_tokens},
            "learner": {
                "gpus": scale.gpus,
                "epochs": 1,
                "local_batch_size": 1_000_000,
                "pack_tokens": pack_tokens,
                "logprob_chunk": 1024,
                **learner,
            },
        }
    )


def fitting(model_dir: Path, pack_tokens: int, scale: Scale) -> tuple[Config, float]:
    """The fastest config that `spiral plan` says fits this GPU, and the memory that it plans, without CUDA's context.

    Raises MemoryError if none does.
    """
    room = float("inf") if scale.rehearse else LEARNER_SHARE * torch.cuda.get_device_properties(0).total_memory
    for saving in SAVINGS:
        settings = config(model_dir, pack_tokens, scale, **saving)
        process = learner_memory(settings, ModelShape.of(settings))
        if process.total <= room:
            return settings, sum(size for item, size in process.items.items() if "assumed" not in item)
    raise MemoryError(
        f"this GPU has room for {room / 2**30:.0f} GiB of a learner that needs {process.total / 2**30:.0f}"
    )


def scripted(num_samples: int, length: int, vocabulary: int) -> list[Episode]:
    """Episodes of two turns with `length` random tokens each, half of which are trained on."""
    rng, half = np.random.default_rng(0), length // 2

    def turn(role: int) -> Turn:
        tokens = rng.integers(vocabulary, size=length, dtype=np.int32)
        completion = Completion(
            token_ids=tokens[half:],
            logprobs=np.full(length - half, -12.0, np.float32),
            finish_reason="length",
            min_version=0,
            max_version=0,
        )
        return policy_turn(role, tokens[:half], completion)

    return [episode(number, (turn(0), turn(1))) for number in range(num_samples // 2)]


def policy_turn(role: int, prompt_ids: np.ndarray, completion: Completion) -> Turn:
    return Turn(
        role=role,
        observation="",
        prompt_ids=prompt_ids,
        completion=completion,
        text="",
        action="",
        legal=True,
        error=None,
    )


def episode(number: int, turns: tuple[Turn, ...]) -> Episode:
    """An episode of the policy against itself, which role 0 won."""
    return Episode(
        match=Match(id=number, game="kuhn_poker", seed=number, players=("policy", "policy")),
        turns=turns,
        returns=(1.0, -1.0),
        end_reason="finished",
        forfeit_by=None,
        duration_s=0.0,
    )


def model_flops(shape: dict[str, int], length: int, num_trained: int) -> float:
    """FLOPs of forward and backward pass over a sample: 6 per weight and token, the head only for trained tokens.

    Attention is causal: QK and AV on half of the square, 2 * 2 * length / 2 per width, times 3 with the backward pass.
    Recomputation (gradient checkpointing, log-probabilities in chunks) is not counted.
    """
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    layer = shape["hidden_size"] * (2 * queries + 2 * keys + 3 * shape["intermediate_size"])
    per_token = shape["num_hidden_layers"] * (6 * layer + 6 * queries * length)
    return length * per_token + num_trained * 6 * shape["hidden_size"] * shape["vocab_size"]


def _peak_flops(gpu: str) -> float | None:
    return next((flops for name, flops in PEAK_FLOPS.items() if name in gpu), None)


class _PeakMemory:
    """The peak of PyTorch's memory on the GPU; in a rehearsal that of the process, with all its libraries."""

    def __init__(self, scale: Scale) -> None:
        self._rehearse = scale.rehearse
        gc.collect()
        if not self._rehearse:
            torch.cuda.reset_peak_memory_stats()

    def bytes(self) -> int:
        if not self._rehearse:
            return torch.cuda.max_memory_allocated()
        status = Path("/proc/self/status").read_text().split()
        return int(status[status.index("VmHWM:") + 1]) * 1024
