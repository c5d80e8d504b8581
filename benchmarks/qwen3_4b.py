"""The part of benchmarks/learner.py that trains Qwen3-4B, with random weights, on one GPU."""

import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rivals import seconds
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from spiral.config import Config
from spiral.learn.learner import Learner
from spiral.storage.shared_memory import SHARED_MEMORY
from spiral.types import Completion, Episode, Match, Turn

PACK_TOKENS, SAMPLE_TOKENS = 8192, 1024
UTILISATION = 0.40
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, from NVIDIA's data sheets


def scripted(num_samples: int, vocabulary: int) -> list[Episode]:
    """Episodes of two turns with SAMPLE_TOKENS tokens each, half of which are trained on."""
    rng, half = np.random.default_rng(0), SAMPLE_TOKENS // 2

    def turn(role: int) -> Turn:
        tokens = rng.integers(vocabulary, size=SAMPLE_TOKENS, dtype=np.int32)
        completion = Completion(
            token_ids=tokens[half:],
            logprobs=np.full(half, -12.0, np.float32),
            finish_reason="length",
            min_version=0,
            max_version=0,
        )
        return Turn(
            role=role,
            observation="",
            prompt_ids=tokens[:half],
            completion=completion,
            text="",
            action="",
            legal=True,
            error=None,
        )

    return [
        Episode(
            match=Match(id=i, game="kuhn_poker", seed=i, players=("policy", "policy")),
            turns=(turn(0), turn(1)),
            returns=(1.0, -1.0),
            end_reason="finished",
            forfeit_by=None,
            duration_s=0.0,
        )
        for i in range(num_samples // 2)
    ]


def model_flops(shape: Qwen3Config, num_samples: int) -> float:
    """FLOPs of forward and backward pass: 6 per weight and token, the head only for trained tokens, causal attention.

    Recomputation (gradient checkpointing, chunked log-probabilities) is not counted.
    """
    heads = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    layer = shape.hidden_size * (2 * heads + 2 * keys + 3 * shape.intermediate_size)
    attention = 6 * heads * SAMPLE_TOKENS  # QK and AV on half of the L x L square: 2 * 2 * L / 2, times 3 with backward
    per_token = shape.num_hidden_layers * (6 * layer + attention)
    per_trained_token = 6 * shape.hidden_size * shape.vocab_size
    return num_samples * SAMPLE_TOKENS * (per_token + per_trained_token / 2)


def measure(rounds: int, checkpointing: bool, console: Console) -> bool:
    """Print model FLOPs utilisation with packs of PACK_TOKENS, peak memory, and the duration of a publish.

    Returns whether the utilisation meets its target.
    """
    shape = Qwen3Config(
        vocab_size=151_936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        max_position_embeddings=40_960,
    )
    num_samples = 4 * PACK_TOKENS // SAMPLE_TOKENS
    with tempfile.TemporaryDirectory() as model_dir, tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as published:
        with torch.device("cuda"):
            Qwen3ForCausalLM(shape).to(torch.bfloat16).save_pretrained(model_dir)
        tokenizer = Tokenizer(WordLevel({"none": 0}))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(model_dir)
        torch.cuda.empty_cache()
        learner = Learner(config(model_dir, published, checkpointing), Path(model_dir))
        episodes = scripted(num_samples, shape.vocab_size)
        learner.step(1, 0, episodes)  # warm-up
        torch.cuda.reset_peak_memory_stats()
        step_s = statistics.median(seconds(lambda n=n: learner.step(n, 0, episodes)) for n in range(2, rounds + 2))
        publish_s = statistics.median(seconds(lambda n=n: learner.publish(n)) for n in range(1, rounds + 1))
    flops, gpu = model_flops(shape, num_samples) / step_s, torch.cuda.get_device_name()
    console.print(
        f"Qwen3-4B on {gpu}, packs of {PACK_TOKENS:,} tokens: {num_samples * SAMPLE_TOKENS / step_s:,.0f} tokens/s, "
        f"{flops / 1e12:.0f} TFLOP/s, peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, "
        f"publish {publish_s:.1f} s",
        highlight=False,
    )
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in gpu), None)
    if peak is None:
        console.print(f"no utilisation: the peak FLOP/s of {gpu} are not in PEAK_FLOPS")
        return False
    console.print(f"model FLOPs utilisation {flops / peak:.2f} (at least {UTILISATION})", highlight=False)
    return flops / peak >= UTILISATION


def config(model_dir: str, published: str, checkpointing: bool) -> Config:
    """A config with one optimizer step per step, over all samples."""
    learner = {"gpus": 1, "epochs": 1, "local_batch_size": 100_000, "pack_tokens": PACK_TOKENS}
    return Config.model_validate(
        {
            "steps": 1000,
            "model": {"name": model_dir, "dtype": "bfloat16"},
            "games": [{"id": "kuhn_poker"}],
            "learner": learner | {"gradient_checkpointing": checkpointing},
            "weights": {"dir": published},
        }
    )
