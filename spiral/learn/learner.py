"""The learner: scores episodes, makes samples of them, and updates the policy.

`spiral.cluster` runs it as a Ray actor, one per rank.
"""

import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from spiral.config import Config
from spiral.headers import episode_header
from spiral.learn.advantage import CheckedEstimator
from spiral.learn.batching import cut_evenly, micro_batches
from spiral.learn.diversity import diversity_metrics
from spiral.learn.kernels.logprobs import TokenStats
from spiral.learn.kernels.packing import Batch, make_batch
from spiral.learn.kernels.sample_table import SampleTable
from spiral.learn.loss import LossInputs, entropy_loss, importance_ratios, kl_loss, load_loss, reinforce
from spiral.learn.model.average import WeightAverage, blend
from spiral.learn.model.gradient_noise import GradientNoise
from spiral.learn.model.offload import Offload
from spiral.learn.model.optimizer import Optimizer
from spiral.learn.model.parameters import DTYPES, trainable
from spiral.learn.model.policy import Policy
from spiral.learn.model.reference import Reference
from spiral.learn.model.sharding import all_reduce, join, materialise, shard, weights_at_rest
from spiral.learn.rank import SINGLE_RANK, Rank
from spiral.learn.recording import EpisodeRecorder, TrainedStep
from spiral.learn.samples import make_samples, score_turns
from spiral.learn.step_metrics import StepMetrics
from spiral.learn.turn_metrics import TurnFigures
from spiral.learn.weights.publisher import Publisher
from spiral.learn.weights.saver import LearnerParts, Saver
from spiral.storage.weight_files import Files
from spiral.types import Episode, WeightsRef


class Learner:
    """One rank of the learner: the policy, its optimizer, the reference, the average and the advantage estimator.

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
        self._mesh = join(rank, self._device, self._dtype)
        self._estimator = CheckedEstimator(config.learner, self._mesh)
        kind = self._trainable = trainable(config)
        self._model = kind.build(model_dir)
        if config.learner.gradient_checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        self._policy = Policy(self._model, config.rollout.temperature, config.learner.logprob_chunk)
        self._reference = kind.reference(self._model, model_dir) if config.learner.kl_coef > 0 else None
        for wrapper in (self._policy, self._reference):
            if isinstance(wrapper, Policy | Reference):  # an adapter is part of the policy
                shard(wrapper, wrapper.model.get_decoder().layers, self._mesh, self._dtype)
                materialise(wrapper, self._device)
                wrapper.model.tie_weights()  # moved one by one, tied weights have become separate ones
                kind.initialise(wrapper, model_dir)
        self._optimizer = Optimizer(self._policy.parameters(), config.learner, config.steps)
        self._gradient_noise = GradientNoise(self._policy.parameters())
        most = config.learner.weight_ema
        self._average = None if most is None else WeightAverage(kind.live(self._policy), most)
        self._publisher = Publisher(config, rank, kind, self._model, self._weights)
        parts = LearnerParts(
            trainable=kind,
            policy=self._policy,
            reference=self._reference,
            average=self._average,
            optimizer=self._optimizer,
            estimator=self._estimator,
            tokenizer=AutoTokenizer.from_pretrained(model_dir),
        )
        self._saver = Saver(config, rank, self._mesh, parts)
        self._recorder = EpisodeRecorder(config.episodes.keep)
        self._offload = Offload()
        self._entropy_weight = 0.0  # in this step
        self._kl_coef = config.learner.kl_coef
        self._received: dict[int, Episode] = {}
        self._trained: TrainedStep | None = None

    # --- a step

    def receive(self, *reports: Sequence[Episode]) -> None:
        """Keep the episodes of reports for `train`, by match id. One with the id of an earlier one replaces it."""
        self._received.update((episode.match.id, episode) for episodes in reports for episode in episodes)

    def train(self, step: int, version: int, match_ids: Sequence[int]) -> dict[str, float]:
        """`step` on the received episodes of these matches, which are kept no longer."""
        return self.step(step, version, [self._received.pop(match_id) for match_id in match_ids])

    def step(self, step: int, version: int, episodes: Sequence[Episode]) -> dict[str, float]:
        """Score `episodes`, make `learner.epochs` passes over their samples, and return the step's metrics.

        `step` counts from 1; `version` is the current policy version, the one published last. Raises UserError if a
        plug-in fails, FloatingPointError before the optimizer is touched if a loss or gradient is not finite, and
        OSError if an earlier checkpoint or episode file could not be written.
        """
        self._saver.raise_failure()
        self._recorder.raise_failure()
        start = time.monotonic()
        cfg = self._config.learner
        episodes = sorted(episodes, key=lambda episode: episode.match.id)
        advantages = self._estimator.score([episode_header(episode) for episode in episodes])
        turns = score_turns(episodes, advantages, gamma=cfg.gamma, format_penalty=cfg.format_penalty)
        table, figures = make_samples(turns), TurnFigures(len(turns))
        if cfg.reference_refresh_every and step > 1 and (step - 1) % cfg.reference_refresh_every == 0:
            self._move_reference(keep=0.0)
        self._entropy_weight = cfg.entropy_weight(step, self._config.steps)
        step_metrics = StepMetrics()
        self._gradient_noise.clear()
        for epoch in range(cfg.epochs):
            order = random.Random(f"{self._config.seed}/{step}/{epoch}").sample(range(len(table)), len(table))
            for part in cut_evenly(order, most=cfg.local_batch_size * self._rank.count):
                self._optimizer_step(table, part, version, step_metrics, None if epoch else figures)
        if cfg.reference_ema is not None and step > cfg.reference_hold:
            self._move_reference(keep=cfg.reference_ema)
        figures.gather(self._mesh)
        metrics = self._estimator.metrics() | step_metrics.metrics(self._mesh) | figures.metrics(turns)
        metrics |= self._gradient_noise.metrics(self._mesh) | diversity_metrics(episodes)
        metrics["train/learning_rate"] = self._optimizer.learning_rate
        metrics["train/num_tokens"] = len(table.trained_T)
        metrics["train/num_samples"] = len(table)
        self._optimizer.end_step()
        self._trained = TrainedStep(step=step, episodes=episodes, turns=turns, ratios=figures.rho_S)
        learn_s = time.monotonic() - start
        num_trained = cfg.epochs * len(table.token_ids_N)
        return metrics | {"perf/learn_s": learn_s, "perf/trained_tokens_per_s": num_trained / learn_s}

    def adjust(self, kl_factor: float, learning_rate_factor: float) -> None:
        """From now on, multiply the config's kl_coef and learning_rate by these factors."""
        self._kl_coef = self._config.learner.kl_coef * kl_factor
        self._optimizer.scale_learning_rate(learning_rate_factor)

    def _move_reference(self, keep: float) -> None:
        """reference <- keep * reference + (1 - keep) * policy."""
        if self._reference is not None:
            self._saver.wait_until_written()
            blend(self._trainable.live(self._reference), self._trainable.live(self._policy), keep)

    def _optimizer_step(
        self,
        table: SampleTable,
        samples: list[int],
        version: int,
        step_metrics: StepMetrics,
        first_pass: TurnFigures | None,
    ) -> None:
        """Accumulate the gradient over the micro batches of `samples`, check it, clip it, and update the weights.

        `first_pass`, given in the first pass, collects what is found out about each turn.
        """
        num_segments = int(table.segments.count[samples].sum())
        num_tokens = int(table.trained.count[samples].sum())
        # From the first update on, the weights are no longer those of the published version.
        weights_are_current = step_metrics.num_optimizer_steps == 0
        nonfinite_matches: set[int] = set()
        self._optimizer.zero_grad()
        for chosen, weight in micro_batches(table, samples, self._config.learner, self._rank):
            batch = make_batch(table, chosen, version, self._device)
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
            importance = importance_ratios(inputs)
            loss = self._loss(inputs) + self._regularisers(inputs, stats)
            if not torch.isfinite(loss):
                nonfinite_matches.update(batch.episode_ids)
            # The counts in LossInputs are over all ranks, so the ranks' gradients must be summed; FSDP averages them.
            (weight * self._rank.count * loss).backward()  # type: ignore[no-untyped-call]
            if weight:
                step_metrics.add_micro_batch(
                    batch, stats, importance, loss.detach(), weights_are_current=weights_are_current
                )
                if first_pass is not None:
                    first_pass.add_micro_batch(batch, stats)
        if first_pass is not None:
            self._gradient_noise.add(num_segments)
        grad_norm = self._optimizer.clip()
        self._require_finite(nonfinite_matches, grad_norm, table.episode_id_B[samples].tolist())
        self._saver.wait_until_written()
        self._optimizer.step()
        if self._average is not None:
            self._average.update(self._trainable.live(self._policy))
        step_metrics.add_optimizer_step(grad_norm=grad_norm, num_segments=num_segments, num_tokens=num_tokens)

    def _regularisers(self, inputs: LossInputs, stats: TokenStats) -> torch.Tensor | float:
        """The losses of the KL to the reference, if there is one, and of the entropy bonus, if it has a weight."""
        cfg = self._config.learner
        loss: torch.Tensor | float = 0.0
        if self._entropy_weight:
            loss += self._entropy_weight * entropy_loss(stats.entropy_T, batch_segments=inputs.batch_segments)
        if self._reference is not None:
            loss += self._kl_coef * kl_loss(
                stats.kl_T,
                inputs.logprob_T,
                inputs.behavior_logprob_T,
                inputs.segment_T,
                batch_segments=inputs.batch_segments,
                importance_max=cfg.importance_max,
            )
        return loss

    def _require_finite(self, nonfinite_matches: set[int], grad_norm: float, all_matches: list[int]) -> None:
        """Raise FloatingPointError on every rank if a loss on any rank, or the gradient, is not finite."""
        (num_nonfinite,) = all_reduce([len(nonfinite_matches)], self._mesh)
        if not num_nonfinite and math.isfinite(grad_norm):
            return
        what = "loss is not finite" if num_nonfinite else f"gradient norm is {grad_norm}"
        matches = sorted(nonfinite_matches or set(all_matches))
        plugin = "" if self._loss is reinforce else f" (learner.loss {self._config.learner.loss})"
        raise FloatingPointError(f"{what} in a batch with matches {matches}{plugin}")

    def _forward(self, batch: Batch) -> TokenStats:
        """Statistics of the trained tokens under the policy, including the KL to the reference if there is one."""
        return TokenStats(*self._policy(batch, self._reference))

    # --- the record of a step

    def record(self, run_dir: Path, step: int) -> None:
        """Write the episodes of the last step, which must be `step`, in the background. Only rank 0 writes.

        A failure (a full disk) is raised by the next `step`, `record` or `finish_record`.
        """
        assert self._trained is not None and self._trained.step == step, f"step {step} is not the last one"
        if self._is_rank_0:
            self._recorder.record(run_dir, self._trained)
        self._trained = None

    def finish_record(self) -> None:
        """Wait until the episodes that are being written, if any, are on disk. Raises OSError if that failed."""
        self._recorder.finish()

    # --- weights for the generators

    def _weights(self, averaged: bool) -> Mapping[str, torch.Tensor]:
        """The trained weights, or their average."""
        if not averaged:
            return self._trainable.live(self._policy)
        assert self._average is not None, "learner.weight_ema is not set"
        return self._average.tensors

    def publish(self, version: int, averaged: bool = False) -> WeightsRef | None:
        """See `Publisher.publish`."""
        return self._publisher.publish(version, averaged)

    def keep_published(self, weights: WeightsRef, directory: Path) -> None:
        """See `Publisher.keep`."""
        self._publisher.keep(weights, directory)

    def read_published(self, weights: WeightsRef) -> Files:
        """See `Publisher.read`."""
        return self._publisher.read(weights)

    def connect(self, client: Any, num_receivers: int, address: str) -> None:
        """See `Publisher.connect`."""
        self._publisher.connect(client, num_receivers, address)

    def send(self, version: int, averaged: bool = False) -> None:
        """See `Publisher.send`."""
        self._publisher.send(version, averaged)

    def close(self) -> None:
        """Remove the published weights."""
        self._publisher.close()

    # --- turns on a GPU that an engine shares: see `spiral.cluster.turns`

    def offload(self) -> None:
        """Move all weights and moments to main memory, once no checkpoint reads them, and free the device's.

        Until `restore` only episodes can be received and recorded.
        """
        self._saver.wait_until_written()
        self._optimizer.zero_grad()
        wrappers = [self._policy, *([self._reference] if isinstance(self._reference, Reference) else [])]
        weights = [tensor for wrapper in wrappers for tensor in weights_at_rest(wrapper).values()]
        averages = [] if self._average is None else self._average.tensors.values()
        self._offload.release([*weights, *averages, *self._optimizer.tensors()])

    def restore(self) -> None:
        """Undo `offload`."""
        self._offload.restore()

    # --- checkpoints

    def begin_save(self, run_dir: Path, state: dict[str, Any]) -> None:
        """Write everything that a resumed run needs, in the background, as the checkpoint of state["step"].

        See `Saver.begin`. A failure (a full disk) is raised by the next `step`, `begin_save` or `finish_save`.
        """
        self.finish_record()  # a checkpoint never holds a step whose episodes are not on disk
        self._saver.begin(run_dir, state)

    def finish_save(self) -> None:
        """Wait until the checkpoint that is being written, if any, is complete. Raises OSError if it failed."""
        self._saver.finish()

    def load(self, directory: Path) -> None:
        """Restore a checkpoint. See `Saver.load`."""
        self._saver.load(directory)
