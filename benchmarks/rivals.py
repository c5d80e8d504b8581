"""What benchmarks/learner.py compares the learner with: padded training, as is common, and the bare minimum."""

import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from spiral.config import Config
from spiral.learn.loss import LossInputs, reinforce
from spiral.types import TrainingSample

PADDED_SEQUENCES, PADDED_TOKENS = 4, 4096  # most per forward pass, padding included


def seconds(run: Callable[[], object]) -> float:
    """The duration of `run`, including its work on the GPU."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def plain_model(settings: Config, model_dir: Path) -> tuple[torch.nn.Module, Callable[[], None]]:
    """A model as transformers loads it, and the optimizer step that ends every variant."""
    device = "cuda" if settings.learner.gpus else "cpu"
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).to(device).train()
    cfg = settings.learner
    optimizer = torch.optim.AdamW(
        model.parameters(), cfg.learning_rate, (cfg.adam_beta1, cfg.adam_beta2), weight_decay=0.0
    )

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return model, step


def mixed_precision(settings: Config) -> torch.autocast:
    on_gpu = settings.learner.gpus > 0
    return torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=on_gpu)


def padded(settings: Config, model_dir: Path, samples: list[TrainingSample]) -> Callable[[], object]:
    """One turn per sequence; logits of all tokens, of which only those of the completion are used."""
    model, step = plain_model(settings, model_dir)
    device = next(model.parameters()).device

    def train() -> None:
        for sequences in micro_batches(samples):
            token_BL, behavior_BL, advantage_BL, trained_BL = (
                pad_sequence([torch.tensor(getattr(s, field)) for s in sequences], batch_first=True).to(device)
                for field in ("token_ids", "behavior_logprobs", "advantages", "loss_mask")
            )
            mask_BL = pad_sequence([torch.ones(len(s.token_ids)) for s in sequences], batch_first=True).to(device)
            token_BL = token_BL.long()
            with mixed_precision(settings):
                logits_BLV = model(input_ids=token_BL, attention_mask=mask_BL, use_cache=False).logits
            logprob_BLV = logits_BLV[:, :-1].float().log_softmax(-1)
            logprob_BL = logprob_BLV.gather(-1, token_BL[:, 1:, None])[..., 0]
            trained = trained_BL[:, 1:]
            inputs = LossInputs(
                logprob_T=logprob_BL[trained],
                behavior_logprob_T=behavior_BL[:, 1:][trained],
                advantage_T=advantage_BL[:, 1:][trained],
                segment_T=trained.nonzero()[:, 0],
                entropy_T=torch.zeros_like(logprob_BL[trained]),  # not used by this loss
                num_segments=len(sequences),
                batch_segments=len(samples),
                batch_tokens=1,
                max_tokens=1,
                config=settings.learner,
            )
            reinforce(inputs).backward()
        step()

    return train


def bare(settings: Config, model_dir: Path, samples: list[TrainingSample]) -> tuple[Callable[[], object], int]:
    """Sequences of equal length without padding: (train, tokens trained on)."""
    model, step = plain_model(settings, model_dir)
    length = settings.learner.pack_tokens
    tokens = torch.from_numpy(np.concatenate([sample.token_ids for sample in samples], dtype=np.int64))
    sequences = tokens[: len(tokens) // length * length].view(-1, 1, length)
    sequences = sequences.to(next(model.parameters()).device)

    def train() -> None:
        for sequence in sequences:
            with mixed_precision(settings):
                loss = model(input_ids=sequence, labels=sequence, use_cache=False).loss
            (loss / len(sequences)).backward()
        step()

    return train, sequences.numel()


def turns_of(sample: TrainingSample) -> list[TrainingSample]:
    """One sample per turn, with everything before the turn as its prompt."""
    turns = []
    for segment in range(1 + sample.segment_ids.max()):
        end = 1 + np.flatnonzero(sample.segment_ids == segment)[-1]
        mask = sample.segment_ids[:end] == segment
        turns.append(
            dataclasses.replace(
                sample,
                token_ids=sample.token_ids[:end],
                loss_mask=mask,
                behavior_logprobs=sample.behavior_logprobs[:end],
                segment_ids=np.where(mask, 0, -1).astype(np.int32),
                advantages=sample.advantages[:end],
            )
        )
    return turns


def micro_batches(samples: list[TrainingSample]) -> list[list[TrainingSample]]:
    """The samples in random order, cut into batches for one forward pass each."""
    batches: list[list[TrainingSample]] = [[]]
    for sample in random.Random(0).sample(samples, len(samples)):
        batch = [*batches[-1], sample]
        if len(batch) > PADDED_SEQUENCES or padded_tokens(batch) > PADDED_TOKENS:
            batches.append([sample])
        else:
            batches[-1] = batch
    return batches


def num_padded(turns: list[TrainingSample]) -> int:
    """Tokens that `padded` computes, including padding."""
    return sum(padded_tokens(batch) for batch in micro_batches(turns))


def padded_tokens(batch: list[TrainingSample]) -> int:
    return len(batch) * max(len(sample.token_ids) for sample in batch)
