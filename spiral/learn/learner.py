"""The learner: scores episodes, turns them into batches, and steps the optimizer.

Made a Ray actor by `spiral.cluster`.
"""

import math
import random
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, get_scheduler

from spiral.config import Config
from spiral.learn.baselines import Baselines
from spiral.learn.loss import TokenStats, kl_loss, policy_loss
from spiral.learn.pack import PACKED_ATTENTION, Batch, make_batch, plan_rows
from spiral.learn.policy import Policy, Reference
from spiral.learn.samples import make_samples
from spiral.learn.shard import (
    ALONE,
    Rank,
    deal,
    join,
    load_weights,
    over_ranks,
    part_of,
    shard,
    weights_at_rest,
    whole,
)
from spiral.learn.weights import exported_weights, full_disk_is_oserror, publish, publish_dirs
from spiral.types import Episode, Sample, WeightsRef

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NOT_COMPARED = -1.0


@dataclass(slots=True)
class _Totals:
    """Sums over one step, from which the metrics are averages."""

    loss: float = 0.0
    grad_norm: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    rho: float = 0.0
    num_optimizer_steps: int = 0
    num_segments: int = 0
    num_tokens: int = 0
    num_rho: int = 0
    num_clipped: int = 0
    num_masked: int = 0
    logprob_diff: float = NOT_COMPARED


class Learner:
    """The policy being trained, its optimizer, its reference model and the table of baselines."""

    def __init__(self, config: Config, model_dir: Path, rank: Rank = ALONE) -> None:
        self._config = config
        self._rank = rank
        self._device = "cuda" if config.learner.gpus else "cpu"
        self._dtype = DTYPES[config.model.dtype]
        torch.manual_seed(config.seed)
        self._mesh = join(rank, self._device)
        self._model = self._load_model(model_dir).to(self._device)
        if config.learner.gradient_checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        self._policy = Policy(self._model, config.rollout.temperature, config.learner.logprob_chunk)
        shard(self._policy, self._model.get_decoder().layers, self._mesh)
        self._reference = None
        if config.learner.kl_coef > 0:
            self._reference = Reference(self._load_model(model_dir).to(self._device))
            shard(self._reference, self._reference.model.get_decoder().layers, self._mesh)
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        cfg = config.learner
        self._optimizer = torch.optim.AdamW(
            self._policy.parameters(),
            lr=cfg.learning_rate,
            betas=(cfg.adam_beta1, cfg.adam_beta2),
            weight_decay=cfg.weight_decay,
        )
        self._scheduler = get_scheduler(
            cfg.lr_scheduler_type,
            self._optimizer,
            num_warmup_steps=int(cfg.lr_warmup_ratio * config.steps),
            num_training_steps=config.steps + 1,
        )
        with warnings.catch_warnings():  # torch expects an optimizer step before
            warnings.simplefilter("ignore", UserWarning)
            self._scheduler.step()  # a warm-up begins above 0, as a decay ends: no step is wasted
        self._baselines = Baselines(cfg.baseline_decay)

    def _load_model(self, model_dir: Path) -> PreTrainedModel:
        # Master weights are float32 whatever the compute type: small updates vanish in bfloat16.
        return AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=torch.float32, attn_implementation=PACKED_ATTENTION
        )

    def step(self, step: int, version: int, episodes: list[Episode]) -> dict[str, float]:
        """One step: score `episodes` with RAE, then `epochs` passes over their samples. Returns metrics.

        `step` counts from 1; `version` is the policy version that is published now. Raises FloatingPointError before
        the optimizer is touched if a loss or gradient is not finite.
        """
        start = time.monotonic()
        cfg = self._config.learner
        advantages = self._baselines.score(episodes)
        samples = make_samples(episodes, advantages, gamma=cfg.gamma, format_penalty=cfg.format_penalty)
        totals = _Totals()
        if self._reference is not None and cfg.reference_refresh_every:
            if step > 1 and (step - 1) % cfg.reference_refresh_every == 0:
                ours = weights_at_rest(self._policy)  # sharded alike, so each rank copies its own part
                with torch.no_grad():
                    for name, tensor in weights_at_rest(self._reference).items():
                        tensor.copy_(ours[name])
        num_samples = cfg.local_batch_size * self._rank.count
        for epoch in range(cfg.epochs):
            order = random.Random(f"{self._config.seed}/{step}/{epoch}").sample(range(len(samples)), len(samples))
            for begin in range(0, len(order), num_samples):
                chosen = [samples[i] for i in order[begin : begin + num_samples]]
                # Only before the first update are the learner's weights those of the current version.
                self._optimizer_step(chosen, version, totals, compare=totals.num_optimizer_steps == 0)
        metrics = self._metrics(samples, episodes, self._over_ranks(totals), time.monotonic() - start)
        self._scheduler.step()
        return metrics

    def _optimizer_step(self, samples: list[Sample], version: int, totals: _Totals, *, compare: bool) -> None:
        """Accumulate the gradient over micro batches, check it, clip it, step."""
        cfg = self._config.learner
        num_segments = sum(1 + max(sample.segment_ids) for sample in samples)
        num_tokens = sum(sum(sample.loss_mask) for sample in samples)
        suspects: set[int] = set()
        self._optimizer.zero_grad(set_to_none=True)
        for batch, weight in self._micro_batches(samples, version):
            stats = self._forward(batch)
            terms = policy_loss(
                stats.logprob_T,
                batch.behavior_logprob_T,
                batch.advantage_T,
                batch.segment_T,
                num_segments=batch.num_segments,
                batch_segments=num_segments,
                batch_tokens=num_tokens,
                config=cfg,
                max_tokens=self._config.rollout.max_tokens,
            )
            loss = terms.loss
            if self._reference is not None:
                loss = loss + cfg.kl_coef * kl_loss(
                    stats.kl_T,
                    stats.logprob_T,
                    batch.behavior_logprob_T,
                    batch.segment_T,
                    batch_segments=num_segments,
                    importance_max=cfg.importance_max,
                )
            if not torch.isfinite(loss):
                suspects.update(batch.episode_ids)
            # N counts over all ranks, so the gradient is the sum of theirs; sharding averages it.
            (weight * self._rank.count * loss).backward()  # type: ignore[no-untyped-call]
            if weight == 0:
                continue
            totals.loss += loss.item()
            totals.kl += float(stats.kl_T.detach().sum())
            totals.entropy += float(stats.entropy_T.sum())
            totals.rho += terms.rho_sum
            totals.num_rho += terms.num_rho
            totals.num_clipped += terms.num_clipped
            totals.num_masked += terms.num_masked
            if compare and bool(batch.current_T.any()):
                diff_T = (stats.logprob_T.detach() - batch.behavior_logprob_T).abs()[batch.current_T]
                totals.logprob_diff = max(totals.logprob_diff, float(diff_T.max()))
        grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(self._policy.parameters(), cfg.grad_clip)))
        (num_suspects,) = over_ranks([len(suspects)], self._mesh)
        if num_suspects or not math.isfinite(grad_norm):  # on every rank, so that none waits for another
            among = sorted(suspects or {sample.episode_id for sample in samples})
            what = "loss is not finite" if num_suspects else f"gradient norm is {grad_norm}"
            raise FloatingPointError(f"{what} in a batch with matches {among}")
        self._optimizer.step()
        totals.grad_norm += grad_norm
        totals.num_optimizer_steps += 1
        totals.num_segments += num_segments
        totals.num_tokens += num_tokens

    def _micro_batches(self, samples: list[Sample], version: int) -> Iterator[tuple[Batch, float]]:
        """This rank's share of the samples, as (batch, weight of its loss).

        All ranks take part in every forward pass: one that has run out repeats a sample with weight 0.
        """
        cfg = self._config.learner
        shares = deal([len(sample.token_ids) for sample in samples], self._rank.count)
        plans = [plan_rows([len(samples[i].token_ids) for i in share], cfg.pack_tokens) for share in shares]
        mine, rows = shares[self._rank.index], plans[self._rank.index]
        for begin in range(0, max(map(len, plans)), cfg.micro_batch_size):
            chosen = [samples[mine[i]] for row in rows[begin : begin + cfg.micro_batch_size] for i in row]
            yield make_batch(chosen or samples[:1], version, self._device), float(bool(chosen))

    def _forward(self, batch: Batch) -> TokenStats:
        """Statistics of the trained tokens under the policy, and its KL to the reference if there is one."""
        with torch.autocast(self._device, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return TokenStats(*self._policy(batch, [self._reference] if self._reference is not None else []))

    def _over_ranks(self, totals: _Totals) -> _Totals:
        """The totals of all ranks; what every rank counts alike stays as it is."""
        names = ("loss", "kl", "entropy", "rho", "num_rho", "num_clipped", "num_masked")
        for name, value in zip(names, over_ranks([getattr(totals, n) for n in names], self._mesh), strict=True):
            setattr(totals, name, value)
        (totals.logprob_diff,) = over_ranks([totals.logprob_diff], self._mesh, largest=True)
        return totals

    def _metrics(
        self, samples: list[Sample], episodes: list[Episode], totals: _Totals, learn_s: float
    ) -> dict[str, float]:
        trained = sum(len(sample.token_ids) for sample in samples) * self._config.learner.epochs
        metrics = {
            "train/loss": totals.loss / totals.num_optimizer_steps,
            "train/grad_norm": totals.grad_norm / totals.num_optimizer_steps,
            "train/learning_rate": self._optimizer.param_groups[0]["lr"],
            "train/kl": totals.kl / totals.num_segments,
            "train/entropy": totals.entropy / totals.num_tokens,
            "train/rho_mean": totals.rho / totals.num_rho,
            "train/rho_clipped_frac": totals.num_clipped / totals.num_rho,
            "train/rho_masked_frac": totals.num_masked / totals.num_rho,
            "train/num_tokens": sum(sum(sample.loss_mask) for sample in samples),
            "train/num_samples": len(samples),
            "perf/learn_s": learn_s,
            "perf/trained_tokens_per_s": trained / learn_s,
        }
        if totals.logprob_diff > NOT_COMPARED:
            metrics["train/logprob_diff_max"] = totals.logprob_diff
        for game in sorted({episode.match.game for episode in episodes}):
            for role in (0, 1):
                metrics[f"game/{game}/role{role}/baseline"] = self._baselines.value(game, role)
        return metrics

    def publish(self, version: int) -> WeightsRef | None:
        """Write the current weights where generators can load them. Only rank 0 writes, and returns where."""
        weights = exported_weights(_whole_model(self._policy), self._dtype)
        return publish(weights, publish_dirs(self._config), version) if self._rank.index == 0 else None

    def save(self, directory: Path) -> None:
        """Write weights (a Hugging Face directory), reference and learner state into `directory`; only rank 0 does."""
        weights = _whole_model(self._policy)
        reference = _whole_model(self._reference) if self._reference is not None else None
        state = {
            "optimizer": whole(self._optimizer.state_dict()),
            "scheduler": self._scheduler.state_dict(),
            "baselines": self._baselines.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        if self._rank.index != 0:
            return
        with full_disk_is_oserror(directory):
            self._model.save_pretrained(directory, state_dict=weights)
            self._tokenizer.save_pretrained(directory)
            if self._reference is not None:
                self._reference.model.save_pretrained(directory / "reference", state_dict=reference)
            torch.save(state, directory / "learner.pt")

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote. Settings of the optimizer come from the config, its state from the checkpoint.

        A reference that the checkpoint lacks, because kl_coef was 0, begins as the checkpoint's policy.
        """
        load_weights(self._policy, Reference(self._load_model(directory)).state_dict())
        if self._reference is not None:
            saved = directory / "reference" if (directory / "reference").exists() else directory
            load_weights(self._reference, Reference(self._load_model(saved)).state_dict())
        state = torch.load(directory / "learner.pt", weights_only=True, map_location="cpu")
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self._optimizer.param_groups]
        for number, parameter in enumerate(self._policy.parameters()):
            moments = state["optimizer"]["state"].get(number, {})
            moments |= {k: part_of(v, parameter) for k, v in moments.items() if v.shape == parameter.shape}
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict({**state["scheduler"], "base_lrs": self._scheduler.base_lrs})
        schedules = zip(self._scheduler.base_lrs, self._scheduler.lr_lambdas, strict=True)
        learning_rates = [base * factor(self._scheduler.last_epoch) for base, factor in schedules]
        for group, own, rate in zip(self._optimizer.param_groups, settings, learning_rates, strict=True):
            group.update(own | {"lr": rate})
        self._baselines.load_state_dict(state["baselines"])
        torch.set_rng_state(state["torch_rng"])


def _whole_model(wrapper: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gathered weights of the model inside Policy or Reference, by their Hugging Face names."""
    gathered: dict[str, torch.Tensor] = whole(weights_at_rest(wrapper))
    return {name.removeprefix("model."): tensor.detach() for name, tensor in gathered.items()}
