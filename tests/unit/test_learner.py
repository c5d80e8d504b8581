"""The learner on a randomly initialised Llama, in this process: steps, checkpoints and published weights."""

import dataclasses
import errno
import random
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from spiral.config import Config
from spiral.config.tree import WeightsConfig
from spiral.learn.kernels.packing import Batch
from spiral.learn.kernels.sample_table import SampleTable
from spiral.learn.learner import Learner
from spiral.learn.model.policy import Policy
from spiral.learn.weights import saver
from spiral.learn.weights.checkpoint import list_checkpoints
from spiral.storage.weight_files import checksum
from spiral.types import Episode, Match, Turn, WeightsRef
from tests.builders import sampled

VOCABULARY = 32
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    vocabulary = {f"t{i}": i for i in range(VOCABULARY)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary))).save_pretrained(directory)
    return directory


def learner(model_dir: Path, **options: object) -> Learner:
    return Learner(config(**options), model_dir)


def config(**options: object) -> Config:
    """A config with these options of the learner; `dtype` is the model's."""
    model = {"name": "unused", "dtype": options.pop("dtype", "float32")}
    settings: dict[str, object] = {"learning_rate": 1e-3, "epochs": 2, "local_batch_size": 8, **options}
    return Config.model_validate({"steps": 10, "model": model, "games": [{"id": "g"}], "learner": settings})


def episodes(step: int, num: int = 8, logprob: float = -3.0) -> list[Episode]:
    """Scripted episodes, a pure function of the step."""
    rng = random.Random(step)

    def turn(role: int) -> Turn:
        tokens = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4)))
        prompt = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 9)))
        return sampled(role, prompt, tokens, (logprob,) * len(tokens), version=step - 1)

    return [
        Episode(
            match=Match(id=num * step + i, game="g", seed=0, players=("policy", "policy")),
            turns=(turn(0), turn(1)),
            returns=((value := rng.choice((-1.0, 0.0, 1.0))), -value),
            end_reason="finished",
            forfeit_by=None,
            duration_s=0.0,
        )
        for i in range(num)
    ]


def save(one: Learner, run_dir: Path, step: int = 1) -> Path:
    """Write a checkpoint, wait until it is complete, and return its directory."""
    one.begin_save(run_dir, {"step": step})
    one.finish_save()
    return run_dir / "checkpoints" / f"step_{step:06d}"


def weights(of: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of._model.state_dict().items()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).detach().abs().max()) for name in a)


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


def conversation(step: int) -> Episode:
    """Three turns per role; each prompt extends the role's previous turn."""
    rng = random.Random(f"conversation {step}")
    so_far: list[tuple[int, ...]] = [(), ()]
    turns = []
    for number in range(6):
        role = number % 2
        prompt = so_far[role] + tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 6)))
        tokens = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4)))
        so_far[role] = prompt + tokens
        logprobs = tuple(rng.uniform(-4, -2) for _ in tokens)
        turns.append(sampled(role, prompt, tokens, logprobs, version=step - 1, legal=number != 2))
    return dataclasses.replace(episodes(step, num=1)[0], turns=tuple(turns))


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


RECIPE = {
    "kl_coef": 0.1,
    "reference_ema": 0.8,
    "reference_hold": 1,
    "weight_ema": 0.9,
    "entropy_coef": 0.05,
    "entropy_end": 0.01,
    "advantage": "prompt",
    "lr_scheduler_type": "linear",
}


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


# --- checkpoints are written in the background


def test_a_checkpoint_has_the_state_from_when_it_was_begun(model_dir: Path, tmp_path: Path, monkeypatch: Patch) -> None:
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
    model_dir: Path, tmp_path: Path, monkeypatch: Patch
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


# --- LoRA


LORA = {"lora_rank": 4, "lora_alpha": 8, "kl_coef": 0.1, "reference_refresh_every": 2, "lr_scheduler_type": "linear"}


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
