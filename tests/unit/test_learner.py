"""The learner on a randomly initialised Llama, in this process: steps and their metrics."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spiral.learn.kernels.packing import Batch
from spiral.learn.kernels.sample_table import SampleTable
from spiral.learn.learner import Learner
from spiral.learn.model.policy import Policy
from spiral.types import Episode
from tests.learners import (
    conversation,
    episodes,
    largest_difference,
    learner,
    model_dir,
    save,
    weights,
)

__all__ = ["model_dir"]  # a fixture

Patch = pytest.MonkeyPatch


def test_a_step_changes_the_weights_and_counts_its_samples_and_tokens(model_dir: Path) -> None:
    one = learner(model_dir)
    before = weights(one)
    metrics = one.step(1, 0, episodes(1))
    assert largest_difference(before, weights(one)) > 1e-4
    assert metrics["train/num_samples"] == 16
    assert metrics["train/num_tokens"] == sum(
        len(t.completion.token_ids) for e in episodes(1) for t in e.turns if t.completion
    )


def test_micro_batches_do_not_change_the_result(model_dir: Path) -> None:
    one = learner(model_dir, pack_tokens=1, micro_batch_size=1)  # one sample per forward pass
    eight = learner(model_dir, pack_tokens=64, micro_batch_size=8)
    for step in (1, 2, 3):
        first, second = one.step(step, step - 1, episodes(step)), eight.step(step, step - 1, episodes(step))
        assert first["train/loss"] == pytest.approx(second["train/loss"], abs=1e-5)
    assert largest_difference(weights(one), weights(eight)) < 1e-5


def test_equal_samples_share_a_forward_pass_and_train_like_separate_ones(model_dir: Path, monkeypatch: Patch) -> None:
    """Every turn occurs three times, with other returns."""

    def repeated(step: int) -> list[Episode]:
        return [
            dataclasses.replace(episode, match=dataclasses.replace(episode.match, id=3 * episode.match.id + copy))
            for episode in episodes(step, num=4)
            for copy in range(3)
        ]

    options = {"kl_coef": 0.1, "entropy_coef": 0.1, "local_batch_size": 100, "pack_tokens": 16, "micro_batch_size": 2}
    shared, separate = learner(model_dir, **options), learner(model_dir, **options)
    sequences, decode = [], Policy.forward

    def counted(self: Policy, batch: Batch, reference: Any) -> Any:
        sequences.append(len(batch.lengths))
        return decode(self, batch, reference)

    monkeypatch.setattr(Policy, "forward", counted)
    rows = [shared.step(step, step - 1, repeated(step)) for step in (1, 2)]
    assert sum(sequences) == 2 * 2 * 8  # steps, epochs, turns
    monkeypatch.setattr(SampleTable, "distinct", lambda self, samples: (samples, np.arange(len(samples))))
    sequences.clear()
    expected = [separate.step(step, step - 1, repeated(step)) for step in (1, 2)]
    assert sum(sequences) == 2 * 2 * 24
    assert largest_difference(weights(shared), weights(separate)) < 1e-5
    for row, other in zip(rows, expected, strict=True):
        for name in row.keys() - {"perf/learn_s", "perf/trained_tokens_per_s"}:
            assert row[name] == pytest.approx(other[name], abs=1e-5), name


def test_a_pass_is_cut_into_optimizer_steps_of_equal_size(model_dir: Path, monkeypatch: Patch) -> None:
    """Ten samples with local_batch_size 8 are two updates of five, not of eight and two."""
    sizes = []
    update = Learner._optimizer_step

    def counted(self: Learner, table: SampleTable, samples: list[int], *arguments: Any) -> None:
        sizes.append(len(samples))
        update(self, table, samples, *arguments)

    monkeypatch.setattr(Learner, "_optimizer_step", counted)
    learner(model_dir, local_batch_size=8, epochs=2).step(1, 0, episodes(1, num=5))
    assert sizes == [5, 5, 5, 5]


def test_episodes_may_come_in_any_order(model_dir: Path) -> None:
    ordered, shuffled = learner(model_dir), learner(model_dir)
    ordered.step(1, 0, episodes(1))
    shuffled.step(1, 0, episodes(1)[::-1])
    assert largest_difference(weights(ordered), weights(shuffled)) == 0.0


@pytest.mark.parametrize("importance", ["sequence", "token", "none"])
def test_a_conversation_trains_like_its_separate_turns(
    model_dir: Path, importance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"importance": importance, "kl_coef": 0.1, "gamma": 0.9, "format_penalty": 0.2, "epochs": 1}

    def gradients(learner: Learner) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        learner._reference.model.lm_head.weight.data.add_(0.3)  # so that the KL is not zero
        metrics = learner.step(1, 0, [conversation(1)])
        return {name: p.grad for name, p in learner._model.named_parameters() if p.grad is not None}, metrics

    merged, metrics = gradients(learner(model_dir, **options))
    assert metrics["train/num_samples"] == 2
    monkeypatch.setattr("spiral.learn.samples._num_continued", lambda before, turn: 0)
    separate, metrics = gradients(learner(model_dir, **options))
    assert metrics["train/num_samples"] == 6
    assert max(float(grad.abs().max()) for grad in merged.values()) > 1e-3
    assert largest_difference(merged, separate) < 1e-6


def test_logprob_diff_covers_only_tokens_of_the_current_version(model_dir: Path) -> None:
    stale = learner(model_dir).step(1, 5, episodes(1))
    fresh = learner(model_dir).step(1, 0, episodes(1))
    assert "train/logprob_diff_max" not in stale
    assert fresh["train/logprob_diff_max"] > 0.1  # the scripted -3.0 is not the model's log-probability


def test_a_loss_that_is_not_finite_is_raised_before_the_optimizer_step(model_dir: Path) -> None:
    one = learner(model_dir)
    before = weights(one)
    with pytest.raises(FloatingPointError, match=r"^loss is not finite in a batch with matches \[[\d, ]+\]$"):
        one.step(1, 0, episodes(1, logprob=float("nan")))
    assert largest_difference(before, weights(one)) == 0.0


def test_kl_starts_at_zero_and_grows_as_the_policy_changes(model_dir: Path) -> None:
    one = learner(model_dir, kl_coef=0.01, epochs=1, local_batch_size=100)
    assert one.step(1, 0, episodes(1))["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert one.step(2, 1, episodes(2))["train/kl"] > 1e-5


def test_reference_refresh_every_copies_the_policy_into_the_reference(model_dir: Path) -> None:
    one = learner(model_dir, kl_coef=0.01, epochs=1, local_batch_size=100, reference_refresh_every=2)
    kl = [one.step(step, step - 1, episodes(step))["train/kl"] for step in (1, 2, 3, 4)]
    assert kl[0] == pytest.approx(0.0, abs=1e-6)
    assert kl[1] > 1e-5
    assert kl[2] == pytest.approx(0.0, abs=1e-6)
    assert kl[3] > 1e-5


def test_the_learning_rate_follows_the_schedule(model_dir: Path) -> None:
    one = learner(model_dir, lr_scheduler_type="linear", lr_warmup_ratio=0.0)
    rates = [one.step(step, step - 1, episodes(step, num=1))["train/learning_rate"] for step in (1, 2, 3)]
    assert rates == [pytest.approx(1e-3 * left / 11) for left in (10, 9, 8)]


def test_factors_are_of_the_configs_learning_rate_and_kl_coef(model_dir: Path, tmp_path: Path) -> None:
    """Also after a checkpoint was loaded, and along a schedule."""
    options = {"lr_scheduler_type": "linear", "epochs": 1}
    adjusted = learner(model_dir, **options, kl_coef=0.1)
    equal = learner(model_dir, **options, kl_coef=0.4, learning_rate=5e-4)
    adjusted.adjust(kl_factor=4.0, learning_rate_factor=0.5)
    first = [one.step(1, 0, episodes(1)) for one in (adjusted, equal)]
    assert first[0]["train/learning_rate"] == first[1]["train/learning_rate"]
    resumed = learner(model_dir, **options, kl_coef=0.1)
    resumed.load(save(adjusted, tmp_path))
    resumed.adjust(kl_factor=4.0, learning_rate_factor=0.5)
    second = [one.step(2, 1, episodes(2)) for one in (resumed, equal)]
    assert second[0]["train/learning_rate"] == second[1]["train/learning_rate"]
    assert largest_difference(weights(resumed), weights(equal)) == 0.0


def test_a_step_reports_quantiles_and_figures_by_game(model_dir: Path) -> None:
    """16 samples in 2 parts a pass; nothing has been updated when the first part is scored."""
    one = learner(model_dir, kl_coef=0.1, epochs=1)
    metrics = one.step(1, 0, episodes(1))
    assert metrics["train/advantage_p10"] <= metrics["train/advantage_p50"] <= metrics["train/advantage_p90"]
    assert metrics["train/rho_p10"] < metrics["train/rho_p50"] < metrics["train/rho_p90"]
    assert metrics["game/g/entropy"] == pytest.approx(metrics["train/entropy"])
    assert metrics["game/g/kl"] == pytest.approx(metrics["train/kl"], abs=1e-7)
    assert metrics["game/g/distinct_openings"] == 1 / 8
    assert metrics["train/grad_variance"] > 0


def test_entropy_is_apart_for_each_game(model_dir: Path) -> None:
    first, other = episodes(1, num=2)
    other = dataclasses.replace(other, match=dataclasses.replace(other.match, game="h"))
    both = learner(model_dir, epochs=1, local_batch_size=100).step(1, 0, [first, other])
    alone = learner(model_dir, epochs=1, local_batch_size=100).step(1, 0, [other])
    assert both["game/h/entropy"] == pytest.approx(alone["train/entropy"])
    assert both["game/g/entropy"] != both["game/h/entropy"]
    assert "train/grad_variance" not in both, "a pass of one part has no noise to measure"
