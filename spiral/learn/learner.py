"""The learner: scores episodes, turns them into batches, and steps the optimizer.

Made a Ray actor by `spiral.cluster`.
"""

import random
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, get_scheduler

from spiral.config import Config
from spiral.learn.baselines import Baselines
from spiral.learn.loss import TokenStats, kl_loss, policy_loss, token_stats
from spiral.learn.pack import PACKED_ATTENTION, Batch, make_batch, plan_rows, predicting_states
from spiral.learn.samples import make_samples
from spiral.learn.weights import exported_weights, full_disk_is_oserror, publish, publish_dirs
from spiral.types import Episode, Sample, WeightsRef

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    logprob_diffs: list[float] = field(default_factory=list)


class Learner:
    """The policy being trained, its optimizer, its reference model and the table of baselines."""

    def __init__(self, config: Config, model_dir: Path) -> None:
        self._config = config
        self._device = "cuda" if config.learner.gpus else "cpu"
        self._dtype = DTYPES[config.model.dtype]
        torch.manual_seed(config.seed)
        self._model = self._load_model(model_dir).to(self._device).train()
        self._reference = None
        if config.learner.kl_coef > 0:
            self._reference = self._load_model(model_dir).to(self._device).requires_grad_(False)
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        if config.learner.gradient_checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        cfg = config.learner
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
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
                self._reference.load_state_dict(self._model.state_dict())
        for epoch in range(cfg.epochs):
            order = random.Random(f"{self._config.seed}/{step}/{epoch}").sample(range(len(samples)), len(samples))
            for begin in range(0, len(order), cfg.local_batch_size):
                chosen = [samples[i] for i in order[begin : begin + cfg.local_batch_size]]
                # Only before the first update are the learner's weights those of the current version.
                self._optimizer_step(chosen, version, totals, compare=totals.num_optimizer_steps == 0)
        metrics = self._metrics(samples, episodes, totals, time.monotonic() - start)
        self._scheduler.step()
        return metrics

    def _optimizer_step(self, samples: list[Sample], version: int, totals: _Totals, *, compare: bool) -> None:
        """Accumulate the gradient over micro batches, check it, clip it, step."""
        cfg = self._config.learner
        num_segments = sum(1 + max(sample.segment_ids) for sample in samples)
        num_tokens = sum(sum(sample.loss_mask) for sample in samples)
        self._optimizer.zero_grad(set_to_none=True)
        for batch in self._micro_batches(samples, version):
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
                raise FloatingPointError(
                    f"loss is {loss.item()} in a batch with matches {sorted(set(batch.episode_ids))}"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            totals.loss += loss.item()
            totals.kl += float(stats.kl_T.detach().sum())
            totals.entropy += float(stats.entropy_T.sum())
            totals.rho += terms.rho_sum
            totals.num_rho += terms.num_rho
            totals.num_clipped += terms.num_clipped
            totals.num_masked += terms.num_masked
            if compare and bool(batch.current_T.any()):
                diff_T = (stats.logprob_T.detach() - batch.behavior_logprob_T).abs()[batch.current_T]
                totals.logprob_diffs.append(float(diff_T.max()))
        grad_norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), cfg.grad_clip)
        if not torch.isfinite(grad_norm):
            matches = sorted({sample.episode_id for sample in samples})
            raise FloatingPointError(f"gradient norm is {grad_norm.item()} in a batch with matches {matches}")
        self._optimizer.step()
        totals.grad_norm += float(grad_norm)
        totals.num_optimizer_steps += 1
        totals.num_segments += num_segments
        totals.num_tokens += num_tokens

    def _micro_batches(self, samples: list[Sample], version: int) -> Iterator[Batch]:
        cfg = self._config.learner
        rows = plan_rows([len(sample.token_ids) for sample in samples], cfg.pack_tokens)
        for begin in range(0, len(rows), cfg.micro_batch_size):
            chosen = [samples[i] for row in rows[begin : begin + cfg.micro_batch_size] for i in row]
            yield make_batch(chosen, version, self._device)

    def _forward(self, batch: Batch) -> TokenStats:
        """Statistics of the trained tokens under the policy, and its KL to the reference if there is one."""
        reference = None
        with torch.autocast(self._device, dtype=self._dtype, enabled=self._dtype != torch.float32):
            if self._reference is not None:
                with torch.no_grad():
                    reference = (predicting_states(self._reference, batch), self._reference.get_output_embeddings())
            return token_stats(
                predicting_states(self._model, batch),
                self._model.get_output_embeddings(),
                batch.target_T,
                temperature=self._config.rollout.temperature,
                reference=reference,
                chunk=self._config.learner.logprob_chunk,
            )

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
        if totals.logprob_diffs:
            metrics["train/logprob_diff_max"] = max(totals.logprob_diffs)
        for game in sorted({episode.match.game for episode in episodes}):
            for role in (0, 1):
                metrics[f"game/{game}/role{role}/baseline"] = self._baselines.value(game, role)
        return metrics

    def publish(self, version: int) -> WeightsRef:
        """Write the current weights where generators can load them."""
        return publish(exported_weights(self._model, self._dtype), publish_dirs(self._config), version)

    def save(self, directory: Path) -> None:
        """Write weights (a Hugging Face directory), reference and learner state into `directory`."""
        with full_disk_is_oserror(directory):
            self._model.save_pretrained(directory)
            self._tokenizer.save_pretrained(directory)
            if self._reference is not None:
                self._reference.save_pretrained(directory / "reference")
            torch.save(
                {
                    "optimizer": self._optimizer.state_dict(),
                    "scheduler": self._scheduler.state_dict(),
                    "baselines": self._baselines.state_dict(),
                    "torch_rng": torch.get_rng_state(),
                },
                directory / "learner.pt",
            )

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote. Settings of the optimizer come from the config, its state from the checkpoint.

        A reference that the checkpoint lacks, because kl_coef was 0, begins as the checkpoint's policy.
        """
        self._model.load_state_dict(self._load_model(directory).state_dict())
        if self._reference is not None:
            saved = directory / "reference"
            self._reference.load_state_dict(self._load_model(saved if saved.exists() else directory).state_dict())
        state = torch.load(directory / "learner.pt", weights_only=True, map_location=self._device)
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict({**state["scheduler"], "base_lrs": self._scheduler.base_lrs})
        schedules = zip(self._scheduler.base_lrs, self._scheduler.lr_lambdas, strict=True)
        learning_rates = [base * factor(self._scheduler.last_epoch) for base, factor in schedules]
        for group, own, rate in zip(self._optimizer.param_groups, settings, learning_rates, strict=True):
            group.update(own | {"lr": rate})
        self._baselines.load_state_dict(state["baselines"])
        torch.set_rng_state(state["torch_rng"].cpu())
