"""Four billion weights on one GPU, for benchmarks/learner.py: random ones, in the shape of Qwen/Qwen3-4B."""

import random
import statistics
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rivals import seconds
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from spiral.config import Config
from spiral.learn.learner import Learner
from spiral.learn.weights import SHARED_MEMORY
from spiral.types import Completion, Episode, Match, Turn

ROW, SAMPLE = 8192, 1024  # tokens
UTILISATION = 0.40
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense, bfloat16, as NVIDIA states them


def scripted(num_samples: int, vocabulary: int) -> list[Episode]:
    """Episodes of two turns, SAMPLE tokens each, half of them sampled."""
    rng, half = random.Random(0), SAMPLE // 2

    def turn(role: int) -> Turn:
        tokens = tuple(rng.randrange(vocabulary) for _ in range(SAMPLE))
        completion = Completion(
            token_ids=tokens[half:], logprobs=(-12.0,) * half, finish_reason="length", min_version=0, max_version=0
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
    """Of forward and backward: 6 a weight and token, the head only where a token is trained on, causal attention.

    What is computed again (gradient checkpointing, chunks of the loss) does not count.
    """
    heads = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    layer = shape.hidden_size * (2 * heads + 2 * keys + 3 * shape.intermediate_size)
    attention = 6 * heads * SAMPLE  # QK and AV over half of the square: 2 * 2 * L / 2, three times
    a_token = shape.num_hidden_layers * (6 * layer + attention)
    a_trained_token = 6 * shape.hidden_size * shape.vocab_size
    return num_samples * SAMPLE * (a_token + a_trained_token / 2)


def measure(rounds: int, checkpointing: bool, console: Console) -> bool:
    """Model FLOPs utilisation at rows of ROW tokens, peak memory, and the time that a publish takes.

    Returns whether the utilisation is what it should be.
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
    num_samples = 4 * ROW // SAMPLE
    with tempfile.TemporaryDirectory() as model_dir, tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as published:
        with torch.device("cuda"):
            Qwen3ForCausalLM(shape).to(torch.bfloat16).save_pretrained(model_dir)
        tokenizer = Tokenizer(WordLevel({"none": 0}))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(model_dir)
        torch.cuda.empty_cache()
        learner = Learner(config(model_dir, published, checkpointing), Path(model_dir))
        episodes = scripted(num_samples, shape.vocab_size)
        learner.step(1, 0, episodes)  # warms up
        torch.cuda.reset_peak_memory_stats()
        step_s = statistics.median(seconds(lambda n=n: learner.step(n, 0, episodes)) for n in range(2, rounds + 2))
        publish_s = statistics.median(seconds(lambda n=n: learner.publish(n)) for n in range(1, rounds + 1))
    flops, gpu = model_flops(shape, num_samples) / step_s, torch.cuda.get_device_name()
    console.print(
        f"Qwen3-4B shape on {gpu}, rows of {ROW:,} tokens: {num_samples * SAMPLE / step_s:,.0f} tokens/s, "
        f"{flops / 1e12:.0f} TFLOP/s, peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, "
        f"publish {publish_s:.1f} s",
        highlight=False,
    )
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in gpu), None)
    if peak is None:
        console.print(f"no utilisation: the peak of {gpu} is not known here")
        return False
    console.print(f"model FLOPs utilisation {flops / peak:.2f} (at least {UTILISATION})", highlight=False)
    return flops / peak >= UTILISATION


def config(model_dir: str, published: str, checkpointing: bool) -> Config:
    """One optimizer step over everything that a step is given."""
    learner = {"gpus": 1, "epochs": 1, "local_batch_size": 100_000, "pack_tokens": ROW}
    return Config.model_validate(
        {
            "steps": 1000,
            "model": {"name": model_dir, "dtype": "bfloat16"},
            "games": [{"id": "kuhn_poker"}],
            "learner": learner | {"gradient_checkpointing": checkpointing},
            "weights": {"dir": published},
        }
    )
