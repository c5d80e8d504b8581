"""The learner: scores episodes, makes samples of them, and updates the policy.

`spiral.cluster` runs it as a Ray actor, one per rank.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from spiral.config import Config
from spiral.learn.advantage import CheckedEstimator, episode_headers
from spiral.learn.kernels.logprobs import TokenStats
from spiral.learn.kernels.packing import Batch, make_batch, plan_packs
from spiral.learn.loss import LossInputs, importance_ratios, kl_loss, load_loss, reinforce
from spiral.learn.model.optimizer import Optimizer
from spiral.learn.model.parameters import DTYPES, trainable
from spiral.learn.model.policy import Policy, Reference
from spiral.learn.model.sharding import (
    SINGLE_RANK,
    Rank,
    all_reduce,
    balance_by_length,
    gather_full,
    join,
    load_weights,
    shard,
)
from spiral.learn.samples import cut_evenly, make_samples
from spiral.learn.step_metrics import StepMetrics
from spiral.learn.weights import checkpoint
from spiral.learn.weights.checkpoint_writer import CheckpointWriter
from spiral.learn.weights.publish import publish, publish_dirs
from spiral.types import Episode, TrainingSample, WeightsRef


class Learner:
    """One rank of the learner: the policy, its optimizer, the reference model and the advantage estimator.

    With several ranks every method is collective: all ranks must call it with the same arguments. Raises UserError if
    the model cannot be trained or a plug-in cannot be loaded.
    """

    def __init__(self, config: Config, model_dir: Path, rank: Rank = SINGLE_RANK) -> None:
        self._config = config
        self._rank = rank
        self._is_rank_0 = rank.index == 0
        self._device = "cuda" if config.learner.gpus else "cpu"
        self._dtype = DTYPES[config.model.dtype]
        self._loss = load_loss(config.learner)
        torch.manual_seed(config.seed)
        self._mesh = join(rank, self._device)
        self._estimator = CheckedEstimator(config.learner, self._mesh)
        self._trainable = trainable(config)
        self._model = self._trainable.load(model_dir).to(self._device)
        if config.learner.gradient_checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        self._policy = Policy(self._model, config.rollout.temperature, config.learner.logprob_chunk)
        shard(self._policy, self._model.get_decoder().layers, self._mesh)
        self._reference = None
        if config.learner.kl_coef > 0:
            self._reference = Reference(self._trainable.load(model_dir).to(self._device))
            shard(self._reference, self._reference.model.get_decoder().layers, self._mesh)
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self._optimizer = Optimizer(self._policy.parameters(), config.learner, config.steps)
        self._checkpoints = CheckpointWriter(config)

    # --- a step

    def step(self, step: int, version: int, episodes: Sequence[Episode]) -> dict[str, float]:
        """Score `episodes`, make `learner.epochs` passes over their samples, and return the step's metrics.

        `step` counts from 1; `version` is the current policy version, the one published last. Raises UserError if a
        plug-in fails, FloatingPointError before the optimizer is touched if a loss or gradient is not finite, and
        OSError if an earlier checkpoint could not be written.
        """
        self._checkpoints.raise_failure()
        start = time.monotonic()
        cfg = self._config.learner
        episodes = sorted(episodes, key=lambda episode: episode.match.id)
        advantages = self._estimator.score(episode_headers(episodes))
        samples = make_samples(episodes, advantages, gamma=cfg.gamma, format_penalty=cfg.format_penalty)
        if cfg.reference_refresh_every and step > 1 and (step - 1) % cfg.reference_refresh_every == 0:
            self._refresh_reference()
        step_metrics = StepMetrics()
        for epoch in range(cfg.epochs):
            order = random.Random(f"{self._config.seed}/{step}/{epoch}").sample(range(len(samples)), len(samples))
            for part in cut_evenly(order, most=cfg.local_batch_size * self._rank.count):
                self._optimizer_step([samples[i] for i in part], version, step_metrics)
        metrics = self._estimator.metrics() | step_metrics.metrics(self._mesh)
        metrics["train/learning_rate"] = self._optimizer.learning_rate
        metrics["train/num_tokens"] = sum(sum(sample.loss_mask) for sample in samples)
        metrics["train/num_samples"] = len(samples)
        self._optimizer.end_step()
        learn_s = time.monotonic() - start
        num_trained = cfg.epochs * sum(len(sample.token_ids) for sample in samples)
        return metrics | {"perf/learn_s": learn_s, "perf/trained_tokens_per_s": num_trained / learn_s}

    def _refresh_reference(self) -> None:
        """Copy the policy into the reference. Both are sharded alike, so each rank copies its own shards."""
        if self._reference is not None:
            policy = self._trainable.live(self._policy)
            with torch.no_grad():
                for name, tensor in self._trainable.live(self._reference).items():
                    tensor.copy_(policy[name])

    def _optimizer_step(self, samples: list[TrainingSample], version: int, step_metrics: StepMetrics) -> None:
        """Accumulate the gradient over the micro batches of `samples`, check it, clip it, and update the weights."""
        num_segments = sum(1 + max(sample.segment_ids) for sample in samples)
        num_tokens = sum(sum(sample.loss_mask) for sample in samples)
        # From the first update on, the weights are no longer those of the published version.
        weights_are_current = step_metrics.num_optimizer_steps == 0
        nonfinite_matches: set[int] = set()
        self._optimizer.zero_grad()
        for batch, weight in self._micro_batches(samples, version):
            stats = self._forward(batch)
            inputs = LossInputs(
                logprob_T=stats.logprob_T,
                behavior_logprob_T=batch.behavior_logprob_T,
                advantage_T=batch.advantage_T,
                segment_T=batch.segment_T,
                entropy_T=stats.entropy_T,
                num_segments=batch.num_segments,
                batch_segments=num_segments,
                batch_tokens=num_tokens,
                max_tokens=self._config.rollout.max_tokens,
                config=self._config.learner,
            )
            ratios = importance_ratios(inputs)
            loss = self._loss(inputs) + self._kl_term(inputs, stats)
            if not torch.isfinite(loss):
                nonfinite_matches.update(batch.episode_ids)
            # The counts in LossInputs are over all ranks, so the ranks' gradients must be summed; FSDP averages them.
            (weight * self._rank.count * loss).backward()  # type: ignore[no-untyped-call]
            if weight:
                step_metrics.add_micro_batch(
                    batch, stats, ratios, loss.detach(), weights_are_current=weights_are_current
                )
        grad_norm = self._optimizer.clip()
        self._require_finite(nonfinite_matches, grad_norm, samples)
        self._optimizer.step()
        step_metrics.add_optimizer_step(grad_norm=grad_norm, num_segments=num_segments, num_tokens=num_tokens)

    def _kl_term(self, inputs: LossInputs, stats: TokenStats) -> torch.Tensor | float:
        """The loss of the KL to the reference; 0 without a reference."""
        if self._reference is None:
            return 0.0
        cfg = self._config.learner
        return cfg.kl_coef * kl_loss(
            stats.kl_T,
            inputs.logprob_T,
            inputs.behavior_logprob_T,
            inputs.segment_T,
            batch_segments=inputs.batch_segments,
            importance_max=cfg.importance_max,
        )

    def _require_finite(self, nonfinite_matches: set[int], grad_norm: float, samples: list[TrainingSample]) -> None:
        """Raise FloatingPointError on every rank if a loss on any rank, or the gradient, is not finite."""
        (num_nonfinite,) = all_reduce([len(nonfinite_matches)], self._mesh)
        if not num_nonfinite and math.isfinite(grad_norm):
            return
        what = "loss is not finite" if num_nonfinite else f"gradient norm is {grad_norm}"
        matches = sorted(nonfinite_matches or {sample.episode_id for sample in samples})
        plugin = "" if self._loss is reinforce else f" (learner.loss {self._config.learner.loss})"
        raise FloatingPointError(f"{what} in a batch with matches {matches}{plugin}")

    def _micro_batches(self, samples: list[TrainingSample], version: int) -> Iterator[tuple[Batch, float]]:
        """This rank's share of the samples, as (batch, weight of its loss).

        Every rank must take part in every forward pass: one that has run out of packs repeats a sample with weight 0.
        """
        cfg = self._config.learner
        shares = balance_by_length([len(sample.token_ids) for sample in samples], self._rank.count)
        plans = [plan_packs([len(samples[i].token_ids) for i in share], cfg.pack_tokens) for share in shares]
        share, packs = shares[self._rank.index], plans[self._rank.index]
        for begin in range(0, max(map(len, plans)), cfg.micro_batch_size):
            chosen = [samples[share[i]] for pack in packs[begin : begin + cfg.micro_batch_size] for i in pack]
            yield make_batch(chosen or samples[:1], version, self._device), float(bool(chosen))

    def _forward(self, batch: Batch) -> TokenStats:
        """Statistics of the trained tokens under the policy, including the KL to the reference if there is one."""
        with torch.autocast(self._device, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return TokenStats(*self._policy(batch, [self._reference] if self._reference is not None else []))

    # --- weights for the generators

    def publish(self, version: int) -> WeightsRef | None:
        """Write the weights as policy version `version` where generators can load them. Only rank 0 returns a value."""
        kind = self._trainable
        weights = gather_full(kind.live(self._policy), keep=self._is_rank_0, dtype=kind.published_dtype)
        if not self._is_rank_0:
            return None
        num_bytes = sum(tensor.nbytes for tensor in weights.values())
        directories = publish_dirs(self._config)
        location = publish(lambda directory: kind.publish(weights, directory), num_bytes, directories, version)
        return WeightsRef(version=version, location=str(location), is_adapter=self._config.learner.lora_rank > 0)

    def connect(self, client: Any, num_receivers: int, loopback: bool) -> None:
        """Connect to the generators' `num_receivers` GPUs for `send`; `client` carries vLLM's calls to them."""
        from spiral.learn.weights import transfer

        self._client = client
        weights = transfer.LiveWeights(lambda: self._trainable.live(self._policy), self._trainable.published_dtype)
        self._transfer = transfer.connect(transfer.nccl(self._rank.index, num_receivers, loopback), client, weights)

    def send(self, version: int) -> None:
        """Send the weights, as policy version `version`, to the generators that `connect` connected to."""
        self._client.version = version
        self._transfer.send_weights()

    # --- checkpoints

    def begin_save(self, run_dir: Path, state: dict[str, Any]) -> None:
        """Copy everything that a resumed run needs, and write it in the background as the checkpoint of state["step"].

        Only rank 0 copies and writes. A failure (a full disk) is raised by the next `step`, `begin_save` or
        `finish_save`. Raises UserError if the advantage estimator's state cannot be kept in a checkpoint.
        """
        self.finish_save()
        weights = gather_full(self._trainable.live(self._policy), keep=self._is_rank_0, copy=True)
        reference = None
        if self._reference is not None:
            reference = gather_full(self._trainable.live(self._reference), keep=self._is_rank_0, copy=True)
        learner = self._optimizer.state_dict(keep=self._is_rank_0) | {
            "advantage": self._estimator.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

        def write(directory: Path) -> None:
            self._trainable.save(self._model, weights, directory)
            self._tokenizer.save_pretrained(directory)
            if reference is not None:
                self._trainable.save(self._model, reference, directory / checkpoint.REFERENCE)
            torch.save(learner, directory / checkpoint.LEARNER)

        if self._is_rank_0:
            self._checkpoints.begin(run_dir, state, write)

    def finish_save(self) -> None:
        """Wait until the checkpoint that is being written, if any, is complete. Raises OSError if it failed."""
        self._checkpoints.finish()

    def load(self, directory: Path) -> None:
        """Restore a checkpoint. The optimizer's hyperparameters are those of the config, its state the checkpoint's.

        If the checkpoint has no reference, because `kl_coef` was 0, the reference becomes the checkpoint's policy.
        """
        load_weights(self._trainable.live(self._policy), self._trainable.read(directory))
        if self._reference is not None:
            saved = directory / checkpoint.REFERENCE
            weights = self._trainable.read(saved if saved.exists() else directory)
            load_weights(self._trainable.live(self._reference), weights)
        state = torch.load(directory / checkpoint.LEARNER, weights_only=True, map_location="cpu")
        self._optimizer.load_state_dict(state)
        self._estimator.load_state_dict(state["advantage"])
        torch.set_rng_state(state["torch_rng"])
