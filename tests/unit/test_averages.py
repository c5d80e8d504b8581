"""Moving averages of the weights, as reference and as what is evaluated, and the entropy bonus, on a small Llama."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from spiral.config.tree import WeightsConfig
from spiral.learn.learner import Learner
from spiral.learn.model.optimizer import Optimizer
from spiral.learn.model.sharding import local_rows
from spiral.learn.weights.export import export
from spiral.storage.weight_files import checksum
from tests.learners import config, episodes, largest_difference, learner, model_dir, save, weights

__all__ = ["model_dir"]  # a fixture


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_moving_average_reference_follows_the_policy_after_the_hold(model_dir: Path, lora_rank: int) -> None:
    one = learner(model_dir, kl_coef=0.01, reference_ema=0.75, reference_hold=1, lora_rank=lora_rank)
    policy, reference = one._trainable.live(one._policy), one._trainable.live(one._reference)
    initial = {name: tensor.clone() for name, tensor in reference.items()}
    assert largest_difference(initial, policy) == 0.0
    one.step(1, 0, episodes(1))
    assert largest_difference(initial, policy) > 1e-4
    assert largest_difference(initial, reference) == 0.0
    one.step(2, 1, episodes(2))
    expected = {name: 0.75 * initial[name] + 0.25 * tensor for name, tensor in policy.items()}
    assert largest_difference(expected, reference) < 1e-7


def test_a_moving_average_is_kept_in_float32(model_dir: Path) -> None:
    """(1 - e) of a small update would be rounded away in bfloat16."""
    one = learner(model_dir, kl_coef=0.01, reference_ema=0.9, dtype="bfloat16", learning_rate=1e-6)
    one.step(1, 0, episodes(1))
    policy, reference = one._trainable.live(one._policy), one._trainable.live(one._reference)
    assert {tensor.dtype for tensor in reference.values()} == {torch.float32}
    fresh = learner(model_dir, dtype="bfloat16")
    initial = fresh._trainable.live(fresh._policy)
    name = max(policy, key=lambda name: float((policy[name] - initial[name]).detach().abs().max()))
    moved = torch.tensor([float(local_rows(x[name])[0].double().sum()) for x in (initial, reference, policy)])
    assert (moved[1] - moved[0]) / (moved[2] - moved[0]) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("most", "lora_rank"), [(1.0, 0), (0.6, 0), (0.6, 4)])
def test_the_weight_average_is_that_of_all_updates(
    model_dir: Path, most: float, lora_rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the limit the weights after update j have the share 2 (j + 1) / ((k + 1) (k + 2))."""
    one = learner(model_dir, weight_ema=min(most, 0.999), lora_rank=lora_rank)
    history = []
    update = Optimizer.step

    def copied(self: Optimizer) -> None:
        history.append({name: tensor.detach().clone() for name, tensor in one._weights(False).items()})
        update(self)

    monkeypatch.setattr(Optimizer, "step", copied)
    for step in (1, 2):
        one.step(step, step - 1, episodes(step))
    history.append(dict(one._weights(False)))
    k = len(history) - 1
    assert k == 8
    if most == 1.0:
        shares = [2 * (j + 1) / ((k + 1) * (k + 2)) for j in range(k + 1)]
    else:
        shares = [1.0]
        for j in range(1, k + 1):
            e = min(most, j / (j + 2))
            shares = [e * share for share in shares] + [1 - e]
    assert sum(shares) == pytest.approx(1.0)
    assert largest_difference(history[0], history[-1]) > 1e-3
    for name, average in one._weights(True).items():
        expected = sum(share * weights[name].detach() for share, weights in zip(shares, history, strict=True))
        assert torch.allclose(average, expected, atol=1e-6)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_checkpoint_and_its_export_hold_the_average(model_dir: Path, tmp_path: Path, lora_rank: int) -> None:
    one = learner(model_dir, weight_ema=0.9, lora_rank=lora_rank)
    one.step(1, 0, episodes(1))
    directory = save(one, tmp_path)
    export(tmp_path, tmp_path / "exported")
    assert not (tmp_path / "exported" / "policy").exists()
    name = "adapter_model.safetensors" if lora_rank else "model.safetensors"
    for where, averaged in ((directory, True), (tmp_path / "exported", True), (directory / "policy", False)):
        assert largest_difference(load_file(where / name), dict(one._weights(averaged))) == 0.0
    assert largest_difference(dict(one._weights(True)), dict(one._weights(False))) > 1e-4


def test_an_average_is_published_beside_the_policy(model_dir: Path, tmp_path: Path) -> None:
    settings = config(weight_ema=0.9).model_copy(update={"weights": WeightsConfig(dir=tmp_path)})
    one = Learner(settings, model_dir)
    one.step(1, 0, episodes(1))
    policy, average = one.publish(1), one.publish(1, averaged=True)
    assert policy is not None and average is not None
    assert (policy.averaged, average.averaged) == (False, True)
    for ref in (policy, average):
        assert checksum(Path(ref.location)) == ref.checksum
        held = load_file(Path(ref.location) / "model.safetensors")
        assert largest_difference(held, dict(one._weights(ref.averaged))) == 0.0
    for version in (2, 3):
        one.publish(version)
    assert not Path(average.location).exists()


def test_an_average_added_on_resume_begins_at_the_policy_and_a_removed_one_leaves_it(
    model_dir: Path, tmp_path: Path
) -> None:
    plain, averaged = learner(model_dir), learner(model_dir, weight_ema=0.9)
    for one in (plain, averaged):
        one.step(1, 0, episodes(1))
    added, removed = learner(model_dir, weight_ema=0.9), learner(model_dir)
    added.load(save(plain, tmp_path / "plain"))
    assert largest_difference(dict(added._weights(True)), dict(plain._weights(False))) == 0.0
    removed.load(save(averaged, tmp_path / "averaged"))
    assert largest_difference(weights(removed), weights(averaged)) == 0.0


def test_the_entropy_bonus_has_the_gradient_of_the_mean_entropy_per_turn(model_dir: Path) -> None:
    """With returns of 0 nothing else has a gradient; the entropies are those of transformers' own logits."""
    drawn = [dataclasses.replace(episode, returns=(0.0, 0.0)) for episode in episodes(1)]
    one = learner(model_dir, entropy_coef=0.3, epochs=1, local_batch_size=100, grad_clip=1e9)
    one.step(1, 0, drawn)
    model = LlamaForCausalLM.from_pretrained(model_dir)
    turns = [turn for episode in drawn for turn in episode.turns]
    entropy = torch.zeros(())
    for turn in turns:
        tokens = torch.tensor([[*turn.prompt_ids, *turn.completion.token_ids]])
        logits = model(tokens).logits[0, len(turn.prompt_ids) - 1 : -1]
        entropy = entropy + torch.distributions.Categorical(logits=logits).entropy().sum()
    (-0.3 * entropy / len(turns)).backward()
    expected = {name: weight.grad for name, weight in model.named_parameters()}
    got = {name: weight.grad for name, weight in one._model.named_parameters()}
    assert max(float(grad.abs().max()) for grad in expected.values()) > 1e-3
    assert largest_difference(expected, got) < 1e-6


def test_the_entropy_weight_is_linear_over_the_run() -> None:
    cfg = config(entropy_coef=0.03, entropy_end=0.01).learner
    assert [cfg.entropy_weight(step, 5) for step in range(1, 6)] == pytest.approx([0.03, 0.025, 0.02, 0.015, 0.01])
    assert config(entropy_coef=0.03).learner.entropy_weight(7, 9) == 0.03
    assert cfg.entropy_weight(1, 1) == 0.03
