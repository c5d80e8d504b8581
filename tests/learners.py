"""Learners on a randomly initialised Llama, and scripted episodes for them."""

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from spiral.config import Config
from spiral.learn.learner import Learner
from spiral.types import Episode, Match, Turn
from tests.builders import sampled

VOCABULARY = 32


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    vocabulary = {f"t{i}": i for i in range(VOCABULARY)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary))).save_pretrained(directory)
    return directory


def learner(model_dir: Path, **options: object) -> Learner:
    return Learner(config(**options), model_dir)


def config(**options: object) -> Config:
    """A config with these options of the learner; `dtype` is the model's."""
    model = {"name": "unused", "dtype": options.pop("dtype", "float32")}
    settings: dict[str, object] = {"learning_rate": 1e-3, "epochs": 2, "local_batch_size": 8, **options}
    return Config.model_validate({"steps": 10, "model": model, "games": [{"id": "g"}], "learner": settings})


def episodes(step: int, num: int = 8, logprob: float = -3.0) -> list[Episode]:
    """Scripted episodes, a pure function of the step."""
    rng = random.Random(step)

    def turn(role: int) -> Turn:
        tokens = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4)))
        prompt = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 9)))
        return sampled(role, prompt, tokens, (logprob,) * len(tokens), version=step - 1)

    return [
        Episode(
            match=Match(id=num * step + i, game="g", seed=0, players=("policy", "policy")),
            turns=(turn(0), turn(1)),
            returns=((value := rng.choice((-1.0, 0.0, 1.0))), -value),
            end_reason="finished",
            forfeit_by=None,
            duration_s=0.0,
        )
        for i in range(num)
    ]


def save(one: Learner, run_dir: Path, step: int = 1) -> Path:
    """Write a checkpoint, wait until it is complete, and return its directory."""
    one.begin_save(run_dir, {"step": step})
    one.finish_save()
    return run_dir / "checkpoints" / f"step_{step:06d}"


def weights(of: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of._model.state_dict().items()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).detach().abs().max()) for name in a)


def conversation(step: int) -> Episode:
    """Three turns per role; each prompt extends the role's previous turn."""
    rng = random.Random(f"conversation {step}")
    so_far: list[tuple[int, ...]] = [(), ()]
    turns = []
    for number in range(6):
        role = number % 2
        prompt = so_far[role] + tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 6)))
        tokens = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4)))
        so_far[role] = prompt + tokens
        logprobs = tuple(rng.uniform(-4, -2) for _ in tokens)
        turns.append(sampled(role, prompt, tokens, logprobs, version=step - 1, legal=number != 2))
    return dataclasses.replace(episodes(step, num=1)[0], turns=tuple(turns))


RECIPE = {
    "kl_coef": 0.1,
    "reference_ema": 0.8,
    "reference_hold": 1,
    "weight_ema": 0.9,
    "entropy_coef": 0.05,
    "entropy_end": 0.01,
    "advantage": "prompt",
    "lr_scheduler_type": "linear",
}


LORA = {"lora_rank": 4, "lora_alpha": 8, "kl_coef": 0.1, "reference_refresh_every": 2, "lr_scheduler_type": "linear"}
