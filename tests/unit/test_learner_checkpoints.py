"""Checkpoints of the learner: what they hold, how they are written in the background, and resuming from them."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from spiral.config.tree import WeightsConfig
from spiral.learn.learner import Learner
from spiral.learn.weights import saver
from spiral.learn.weights.checkpoint import list_checkpoints
from spiral.storage.weight_files import checksum
from spiral.types import WeightsRef
from tests.learners import (
    LORA,
    RECIPE,
    config,
    episodes,
    largest_difference,
    learner,
    model_dir,
    save,
    weights,
)

__all__ = ["model_dir"]  # a fixture


@pytest.mark.parametrize(
    "options", [{"kl_coef": 0.1, "reference_refresh_every": 2, "lr_scheduler_type": "linear"}, RECIPE]
)
def test_a_loaded_checkpoint_continues_bit_for_bit(model_dir: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    straight, first = learner(model_dir, **options), learner(model_dir, **options)
    for step in (1, 2, 3):
        straight.step(step, step - 1, episodes(step))
        first.step(step, step - 1, episodes(step))
    resumed = learner(model_dir, **options)
    resumed.load(save(first, tmp_path))
    for step in (4, 5):
        expected = straight.step(step, step - 1, episodes(step))
        got = resumed.step(step, step - 1, episodes(step))
        assert {k: v for k, v in got.items() if not k.startswith("perf/")} == {
            k: v for k, v in expected.items() if not k.startswith("perf/")
        }
    assert_equal_parts(straight, resumed)


def assert_equal_parts(one: Learner, other: Learner) -> None:
    """All that a checkpoint would hold is equal, bit for bit."""
    first, second = (learner._saver._parts.tensors() for learner in (one, other))
    assert first.keys() == second.keys()
    for part, tensors in first.items():
        assert tensors.keys() == second[part].keys()
        assert largest_difference(tensors, second[part]) == 0.0, part
    assert str(one._saver._parts.shared()) == str(other._saver._parts.shared())


def test_a_checkpoint_is_a_hugging_face_model(model_dir: Path, tmp_path: Path) -> None:
    one = learner(model_dir)
    one.step(1, 0, episodes(1))
    directory = save(one, tmp_path)
    files = {path.name for path in directory.glob("*.safetensors")}
    assert files == {"model.safetensors"}, "vLLM loads all files of tensors that it finds here"
    assert largest_difference(LlamaForCausalLM.from_pretrained(directory).state_dict(), weights(one)) == 0.0


def test_a_resumed_run_uses_the_learning_rate_of_the_config(model_dir: Path, tmp_path: Path) -> None:
    one = learner(model_dir, learning_rate=1e-3)
    one.step(1, 0, episodes(1))
    resumed = learner(model_dir, learning_rate=5e-4)
    resumed.load(save(one, tmp_path))
    assert resumed.step(2, 1, episodes(2))["train/learning_rate"] == pytest.approx(5e-4)


def test_a_reference_added_on_resume_is_the_policy_of_the_checkpoint(model_dir: Path, tmp_path: Path) -> None:
    one = learner(model_dir)
    one.step(1, 0, episodes(1))
    resumed = learner(model_dir, kl_coef=0.1, epochs=1, local_batch_size=100)
    resumed.load(save(one, tmp_path))
    assert resumed.step(2, 1, episodes(2))["train/kl"] == pytest.approx(0.0, abs=1e-6)


def test_a_checkpoint_has_the_state_from_when_it_was_begun(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step computes its gradient meanwhile, and waits before it changes what is being written."""
    may_write = threading.Event()
    one, write = learner(model_dir), saver.write_rows

    def slow(*arguments: Any) -> None:
        assert may_write.wait(60)
        write(*arguments)

    monkeypatch.setattr(saver, "write_rows", slow)
    one.step(1, 0, episodes(1))
    before = weights(one)
    one.begin_save(tmp_path, {"step": 1})
    with ThreadPoolExecutor() as threads:
        step = threads.submit(one.step, 2, 1, episodes(2))
        assert not wait([step], timeout=2).done
        assert any(parameter.grad is not None for parameter in one._model.parameters())
        assert largest_difference(weights(one), before) == 0.0
        assert list_checkpoints(tmp_path) == []
        may_write.set()
        step.result(timeout=60)
    one.finish_save()
    (directory,) = list_checkpoints(tmp_path)
    assert largest_difference(weights(one), before) > 1e-4
    assert largest_difference(LlamaForCausalLM.from_pretrained(directory).state_dict(), before) == 0.0
    assert set(torch.load(directory / "learner.pt", weights_only=True)["updates"]) == {4.0}  # two epochs of two updates


def test_a_checkpoint_that_cannot_be_written_fails_the_next_step(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saver, "write_whole", full)
    one = learner(model_dir)
    one.begin_save(tmp_path, {"step": 1})
    wait([one._saver._writer._writing])
    with pytest.raises(OSError, match="No space left"):
        one.step(1, 0, episodes(1))
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_only_adapters_are_trained_and_checkpointed(model_dir: Path, tmp_path: Path) -> None:
    one = learner(model_dir, **LORA)
    before = weights(one)
    one.step(1, 0, episodes(1))
    changed = {name for name, tensor in weights(one).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".lora_" in name and ".reference." not in name}
    directory = save(one, tmp_path)
    assert {path.name for path in directory.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not list(directory.glob("model*.safetensors"))
    moments = load_file(directory / "optimizer" / "optimizer.safetensors")
    assert len(moments) == 2 * len(load_file(directory / "adapter_model.safetensors")) == 56


@pytest.mark.parametrize("options", [LORA, {**RECIPE, "lora_rank": 4}])
def test_loaded_adapters_continue_bit_for_bit(model_dir: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    straight, resumed = learner(model_dir, **options), learner(model_dir, **options)
    for step in (1, 2, 3):
        straight.step(step, step - 1, episodes(step))
    resumed.load(save(straight, tmp_path))
    for step in (4, 5):
        rows = [one.step(step, step - 1, episodes(step)) for one in (straight, resumed)]
        first, second = ({k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows)
        assert first == second
    assert_equal_parts(straight, resumed)


def test_a_lora_run_publishes_an_adapter(model_dir: Path, tmp_path: Path) -> None:
    settings = config(**LORA)
    one = Learner(settings.model_copy(update={"weights": WeightsConfig(dir=tmp_path)}), model_dir)
    one.step(1, 0, episodes(1))
    ref = one.publish(1)
    assert ref is not None
    location = Path(ref.location)
    assert ref == WeightsRef(version=1, location=str(location), is_adapter=True, checksum=checksum(location))
    assert location.name == "v000001"
    assert {path.name for path in location.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
