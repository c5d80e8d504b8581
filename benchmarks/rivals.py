"""What benchmarks/learner.py measures the learner against: how turns are commonly trained on, and the bare minimum."""

import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from spiral.config import Config
from spiral.learn.loss import policy_loss
from spiral.types import Sample

PADDED_ROWS, PADDED_TOKENS = 4, 4096  # a forward pass at most, padding included


def seconds(run: Callable[[], object]) -> float:
    """How long `run` takes, the GPU's work included."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def plain_model(settings: Config, model_dir: Path) -> tuple[torch.nn.Module, Callable[[], None]]:
    """A model as transformers gives it, and the optimizer step that every variant ends with."""
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


def computing(settings: Config) -> torch.autocast:
    on_gpu = settings.learner.gpus > 0
    return torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=on_gpu)


def padded(settings: Config, model_dir: Path, samples: list[Sample]) -> Callable[[], object]:
    """One turn a row; log-probabilities of every token, of which those of the completion are kept."""
    model, step = plain_model(settings, model_dir)
    device = next(model.parameters()).device

    def train() -> None:
        for rows in micro_batches(samples):
            token_BL, behavior_BL, advantage_BL, trained_BL = (
                pad_sequence([torch.tensor(getattr(s, field)) for s in rows], batch_first=True).to(device)
                for field in ("token_ids", "behavior_logprobs", "advantages", "loss_mask")
            )
            attention_BL = pad_sequence([torch.ones(len(s.token_ids)) for s in rows], batch_first=True).to(device)
            with computing(settings):
                logits_BLV = model(input_ids=token_BL, attention_mask=attention_BL, use_cache=False).logits
            logprob_BLV = logits_BLV[:, :-1].float().log_softmax(-1)
            logprob_BL = logprob_BLV.gather(-1, token_BL[:, 1:, None])[..., 0]
            trained = trained_BL[:, 1:]
            loss = policy_loss(
                logprob_BL[trained],
                behavior_BL[:, 1:][trained],
                advantage_BL[:, 1:][trained],
                trained.nonzero()[:, 0],
                num_segments=len(rows),
                batch_segments=len(samples),
                batch_tokens=1,
                config=settings.learner,
                max_tokens=1,
            ).loss
            loss.backward()
        step()

    return train


def bare(settings: Config, model_dir: Path, samples: list[Sample]) -> tuple[Callable[[], object], int]:
    """Rows that are full: (train, tokens trained on)."""
    model, step = plain_model(settings, model_dir)
    length = settings.learner.pack_tokens
    tokens = torch.tensor([token for sample in samples for token in sample.token_ids])
    rows = tokens[: len(tokens) // length * length].view(-1, 1, length)
    rows = rows.to(next(model.parameters()).device)

    def train() -> None:
        for row in rows:
            with computing(settings):
                loss = model(input_ids=row, labels=row, use_cache=False).loss
            (loss / len(rows)).backward()
        step()

    return train, rows.numel()


def turns_of(sample: Sample) -> list[Sample]:
    """A sample for each of its turns, with everything before the turn as its prompt."""
    turns = []
    for segment in range(1 + max(sample.segment_ids)):
        end = 1 + max(i for i, s in enumerate(sample.segment_ids) if s == segment)
        mask = tuple(s == segment for s in sample.segment_ids[:end])
        turns.append(
            dataclasses.replace(
                sample,
                token_ids=sample.token_ids[:end],
                loss_mask=mask,
                behavior_logprobs=sample.behavior_logprobs[:end],
                segment_ids=tuple(0 if trained else -1 for trained in mask),
                advantages=sample.advantages[:end],
            )
        )
    return turns


def micro_batches(samples: list[Sample]) -> list[list[Sample]]:
    """In random order, cut into rows for one forward pass each."""
    batches: list[list[Sample]] = [[]]
    for sample in random.Random(0).sample(samples, len(samples)):
        rows = [*batches[-1], sample]
        if len(rows) > PADDED_ROWS or len(rows) * max(len(row.token_ids) for row in rows) > PADDED_TOKENS:
            batches.append([sample])
        else:
            batches[-1] = rows
    return batches


def num_padded(turns: list[Sample]) -> int:
    """Tokens that `padded` computes, padding included."""
    return sum(len(rows) * max(len(sample.token_ids) for sample in rows) for rows in micro_batches(turns))
