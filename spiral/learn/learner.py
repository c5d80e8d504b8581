"""The learner: scores episodes, turns them into batches, and steps the optimizer.

Made a Ray actor by `spiral.cluster`.
"""

import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from spiral.config import Config, dump
from spiral.learn import checkpoint
from spiral.learn.baselines import Baselines
from spiral.learn.logprobs import TokenStats
from spiral.learn.loss import kl_loss, policy_loss
from spiral.learn.optimizer import Optimizer
from spiral.learn.pack import Batch, make_batch, plan_rows
from spiral.learn.policy import Policy, Reference
from spiral.learn.samples import make_samples
from spiral.learn.shard import ALONE, Rank, deal, join, load_weights, over_ranks, shard, whole
from spiral.learn.tally import Tally
from spiral.learn.trainable import DTYPES, trainable
from spiral.learn.weights import full_disk_is_oserror, publish, publish_dirs
from spiral.types import Episode, Sample, WeightsRef


class Learner:
    """The policy being trained, its optimizer, its reference model and the table of baselines."""

    def __init__(self, config: Config, model_dir: Path, rank: Rank = ALONE) -> None:
        self._config = config
        self._rank = rank
        self._writes = rank.index == 0
        self._device = "cuda" if config.learner.gpus else "cpu"
        self._dtype = DTYPES[config.model.dtype]
        torch.manual_seed(config.seed)
        self._mesh = join(rank, self._device)
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
        self._baselines = Baselines(config.learner.baseline_decay)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    # --- a step

    def step(self, step: int, version: int, episodes: list[Episode]) -> dict[str, float]:
        """One step: score `episodes` with RAE, then `epochs` passes over their samples. Returns metrics.

        `step` counts from 1; `version` is the policy version that is published now. Raises FloatingPointError before
        the optimizer is touched if a loss or gradient is not finite, and OSError if a checkpoint could not be written.
        """
        if self._writing is not None and self._writing.done():
            self.finish_save()
        start = time.monotonic()
        cfg = self._config.learner
        advantages = self._baselines.score(episodes)
        samples = make_samples(episodes, advantages, gamma=cfg.gamma, format_penalty=cfg.format_penalty)
        if cfg.reference_refresh_every and step > 1 and (step - 1) % cfg.reference_refresh_every == 0:
            self._refresh_reference()
        tally = Tally()
        num_samples = cfg.local_batch_size * self._rank.count
        for epoch in range(cfg.epochs):
            order = random.Random(f"{self._config.seed}/{step}/{epoch}").sample(range(len(samples)), len(samples))
            for begin in range(0, len(order), num_samples):
                chosen = [samples[i] for i in order[begin : begin + num_samples]]
                # Only before the first update are the learner's weights those of the current version.
                self._optimizer_step(chosen, version, tally, compare=tally.num_optimizer_steps == 0)
        metrics = tally.metrics(self._mesh) | {
            "train/learning_rate": self._optimizer.learning_rate,
            "train/num_tokens": sum(sum(sample.loss_mask) for sample in samples),
            "train/num_samples": len(samples),
        }
        self._optimizer.end_step()
        for game in sorted({episode.match.game for episode in episodes}):
            for role in (0, 1):
                metrics[f"game/{game}/role{role}/baseline"] = self._baselines.value(game, role)
        learn_s = time.monotonic() - start
        trained = cfg.epochs * sum(len(sample.token_ids) for sample in samples)
        return metrics | {"perf/learn_s": learn_s, "perf/trained_tokens_per_s": trained / learn_s}

    def _refresh_reference(self) -> None:
        """Copy the policy into the reference. They are sharded alike, so each rank copies its own part."""
        if self._reference is not None:
            ours = self._trainable.live(self._policy)
            with torch.no_grad():
                for name, tensor in self._trainable.live(self._reference).items():
                    tensor.copy_(ours[name])

    def _optimizer_step(self, samples: list[Sample], version: int, tally: Tally, *, compare: bool) -> None:
        """Accumulate the gradient over micro batches, check it, clip it, step."""
        cfg = self._config.learner
        num_segments = sum(1 + max(sample.segment_ids) for sample in samples)
        num_tokens = sum(sum(sample.loss_mask) for sample in samples)
        suspects: set[int] = set()
        self._optimizer.zero_grad()
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
            if weight:
                tally.add(batch, stats, terms, loss.detach(), compare=compare)
        grad_norm = self._optimizer.clip()
        (num_suspects,) = over_ranks([len(suspects)], self._mesh)
        if num_suspects or not math.isfinite(grad_norm):  # on every rank, so that none waits for another
            among = sorted(suspects or {sample.episode_id for sample in samples})
            what = "loss is not finite" if num_suspects else f"gradient norm is {grad_norm}"
            raise FloatingPointError(f"{what} in a batch with matches {among}")
        self._optimizer.step()
        tally.grad_norm += grad_norm
        tally.num_optimizer_steps += 1
        tally.num_segments += num_segments
        tally.num_tokens += num_tokens

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

    # --- weights to the generators

    def publish(self, version: int) -> WeightsRef | None:
        """Write the current weights where generators can load them. Only rank 0 writes, and returns where."""
        kind = self._trainable
        weights = whole(kind.live(self._policy), keep=self._writes, dtype=kind.published_dtype)
        if not self._writes:
            return None
        num_bytes = sum(tensor.nbytes for tensor in weights.values())
        directories = publish_dirs(self._config)
        location = publish(lambda aside: kind.publish(weights, aside), num_bytes, directories, version)
        return WeightsRef(version=version, location=str(location), is_adapter=self._config.learner.lora_rank > 0)

    def connect(self, client: Any, num_receivers: int, loopback: bool) -> None:
        """Meet the generators' GPUs for `send`. `client` asks them what vLLM's transfer engine wants asked."""
        from spiral.learn import transfer

        self._client = client
        weights = transfer.LiveWeights(lambda: self._trainable.live(self._policy), self._trainable.published_dtype)
        self._transfer = transfer.connect(transfer.nccl(self._rank.index, num_receivers, loopback), client, weights)

    def send(self, version: int) -> None:
        """Put the current weights into the generators that it is connected to, as policy version `version`."""
        self._client.version = version
        self._transfer.send_weights()

    # --- checkpoints

    def begin_save(self, run_dir: Path, state: dict[str, Any]) -> None:
        """Take a copy of everything, and write it as the checkpoint of `state["step"]` while training goes on.

        Only rank 0 copies and writes. A failure (a full disk) is raised by the next `step`, `begin_save` or
        `finish_save`.
        """
        self.finish_save()
        weights = whole(self._trainable.live(self._policy), keep=self._writes, copy=True)
        reference = None
        if self._reference is not None:
            reference = whole(self._trainable.live(self._reference), keep=self._writes, copy=True)
        learner = self._optimizer.state_dict(keep=self._writes) | {
            "baselines": self._baselines.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

        def write(directory: Path) -> None:
            with full_disk_is_oserror(directory):
                self._trainable.save(self._model, weights, directory)
                self._tokenizer.save_pretrained(directory)
                if reference is not None:
                    self._trainable.save(self._model, reference, directory / checkpoint.REFERENCE)
                torch.save(learner, directory / checkpoint.LEARNER)

        if self._writes:
            keep = self._config.checkpoint
            self._writing = self._writer.submit(
                checkpoint.save,
                run_dir,
                state,
                dump(self._config),
                write,
                keep_last=keep.keep_last,
                keep_every=keep.keep_every,
            )

    def finish_save(self) -> None:
        """Wait until the checkpoint that was begun is whole. Raises what stopped it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def load(self, directory: Path) -> None:
        """Go on from a checkpoint. Settings of the optimizer come from the config, its state from the checkpoint.

        A reference that the checkpoint lacks, because kl_coef was 0, begins as the checkpoint's policy.
        """
        load_weights(self._trainable.live(self._policy), self._trainable.read(directory))
        if self._reference is not None:
            saved = directory / checkpoint.REFERENCE
            read = self._trainable.read(saved if saved.exists() else directory)
            load_weights(self._trainable.live(self._reference), read)
        state = torch.load(directory / checkpoint.LEARNER, weights_only=True, map_location="cpu")
        self._optimizer.load_state_dict(state)
        self._baselines.load_state_dict(state["baselines"])
        torch.set_rng_state(state["torch_rng"])
