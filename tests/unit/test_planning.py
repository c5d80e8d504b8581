import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from spiral.cli.main import app
from spiral.config import Config, UserError, load_config
from spiral.machine import GIB
from spiral.models.shape import ModelShape
from spiral.planning.memory import generator_memory, learner_memory, problems
from spiral.planning.report import gpu_memory, report_memory

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
}
QWEN3_4B = QWEN3 | {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "tie_word_embeddings": True,
}


@pytest.fixture
def qwen3_4b(tmp_path: Path) -> str:
    """The override that names a directory with Qwen3-4B's configuration, and no weights."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_4B))
    return f"model.name={tmp_path}"


def paper(*overrides: str) -> Config:
    return load_config("spiral_qwen3_4b", list(overrides))


def test_sizes_are_those_of_the_model(qwen3_4b: str) -> None:
    shape = ModelShape.of(paper(qwen3_4b))
    assert shape.embedding == 151936 * 2560
    assert shape.layer == 2560 * (2 * 4096 + 2 * 1024 + 3 * 9728) + 2 * 2560 + 2 * 128
    assert shape.weights == shape.embedding + 36 * shape.layer + 2560
    assert (shape.queries, shape.keys, shape.has_qk_norm) == (4096, 1024, True)
    assert shape.lora_targets == 36 * (2 * (2560 + 4096) + 2 * (2560 + 1024) + 3 * (2560 + 9728))


def test_a_head_of_its_own_counts_as_embedding(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_4B | {"tie_word_embeddings": False}))
    shape = ModelShape.of(paper(f"model.name={tmp_path}"))
    assert shape.embedding == 2 * 151936 * 2560


def test_the_paper_s_run_fits_eight_h100(qwen3_4b: str) -> None:
    config = paper(qwen3_4b)
    shape = ModelShape.of(config)
    learner, generator = learner_memory(config, shape), generator_memory(config, shape, 79.6)
    assert (learner.count, generator.count) == (2, 6)
    assert learner.items["AdamW moments"] == 4.0 * shape.weights  # 8 bytes each, over two ranks
    assert generator.total == pytest.approx(0.85 * 79.6 * GIB)
    assert problems(config, learner, generator, 79.6) == []


def test_the_32b_run_fits_four_nodes(tmp_path: Path) -> None:
    wide = {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64}
    (tmp_path / "config.json").write_text(json.dumps(QWEN3 | wide | {"tie_word_embeddings": False}))
    config = load_config("qwen3_32b_four_nodes", [f"model.name={tmp_path}"])
    shape = ModelShape.of(config)
    assert shape.weights == pytest.approx(32.8e9, rel=0.01)
    assert config.num_gpus == 32
    assert problems(config, learner_memory(config, shape), generator_memory(config, shape, 79.6), 79.6) == []


@pytest.fixture
def qwen3_06b(tmp_path: Path) -> str:
    """The override that names a directory with Qwen3-0.6B's configuration, and no weights."""
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    (tmp_path / "config.json").write_text(json.dumps(QWEN3 | sizes | {"tie_word_embeddings": True}))
    return f"model.name={tmp_path}"


def test_in_turns_a_gpu_of_24_gb_holds_the_larger_of_learner_and_generator(qwen3_06b: str) -> None:
    config = load_config("qwen3_0.6b_one_gpu", [qwen3_06b])
    shape = ModelShape.of(config)
    learner, generator = learner_memory(config, shape), generator_memory(config, shape, 24.0)
    assert generator.total == pytest.approx((0.85 * 24 + 1) * GIB)  # its share, and what is left of the learner
    assert learner.items["generator, asleep (assumed)"] == 2 * GIB
    assert learner.total + generator.total > 24 * GIB  # side by side they would not fit
    assert problems(config, learner, generator, 24.0) == []
    result = CliRunner().invoke(app, ["plan", "qwen3_0.6b_one_gpu", qwen3_06b, "--gpu", "24"])
    assert result.exit_code == 0
    assert "in turns: 21.4 GiB of the GPU at most" in result.output
    assert "fits on a GPU of 24 GiB" in result.output


def test_a_generator_must_leave_room_for_what_the_learner_keeps(qwen3_06b: str) -> None:
    config = load_config("qwen3_0.6b_one_gpu", [qwen3_06b, "generators.gpu_memory_utilization=0.98"])
    shape = ModelShape.of(config)
    (found,) = problems(config, learner_memory(config, shape), generator_memory(config, shape, 24.0), 24.0)
    assert "lower generators.gpu_memory_utilization" in found


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["learner.gpus=1", "generators.count=7"], "more learner.gpus"),
        (["learner.gradient_checkpointing=false"], "learner.gradient_checkpointing=true"),
        (["generators.gpu_memory_utilization=0.13"], "raise generators.gpus, or lower generators.max_model_len"),
    ],
)
def test_what_does_not_fit_is_said_with_its_cure(qwen3_4b: str, overrides: list[str], problem: str) -> None:
    config = paper(qwen3_4b, *overrides)
    shape = ModelShape.of(config)
    (found,) = problems(config, learner_memory(config, shape), generator_memory(config, shape, 79.6), 79.6)
    assert problem in found


def test_adapters_take_no_memory_for_the_moments_of_frozen_weights(qwen3_4b: str) -> None:
    config = paper(qwen3_4b, "learner.lora_rank=32", "learner.kl_coef=0.1", "learner.gpus=1")
    shape = ModelShape.of(config)
    items = learner_memory(config, shape).items
    adapters = 32 * shape.lora_targets
    assert items["AdamW moments"] == 8.0 * adapters
    assert items["weights"] == 4.0 * adapters + 2.0 * shape.weights
    assert items["reference"] == 4.0 * adapters  # another adapter of the same model
    assert generator_memory(config, shape, 79.6).items["adapters"] == 2.0 * adapters
    league = paper(qwen3_4b, "learner.lora_rank=32", "league.opponents={past: 1}", "league.past_keep=4")
    assert generator_memory(league, shape, 79.6).items["adapters"] == 2.0 * adapters * (1 + 4 + 1)


@pytest.mark.parametrize("override", ["learner.gradient_checkpointing=true", "learner.pack_tokens=16384"])
def test_activations_shrink_with(qwen3_4b: str, override: str) -> None:
    full = paper(qwen3_4b, "learner.gradient_checkpointing=false", "learner.pack_tokens=32768")
    smaller = full.model_copy(update={"learner": paper(qwen3_4b, override).learner})
    shape = ModelShape.of(full)
    of_full, of_smaller = (learner_memory(config, shape).items["activations"] for config in (full, smaller))
    assert of_smaller < 0.6 * of_full


def test_gpus_are_known_by_name_or_by_their_memory() -> None:
    assert gpu_memory("H200") == 140.4
    assert gpu_memory("46.5") == 46.5
    with pytest.raises(UserError, match="--gpu tpu: expected one of a100, "):
        gpu_memory("tpu")


def test_a_run_on_the_cpu_is_compared_with_this_machine() -> None:
    console = Console(record=True, width=120)
    assert report_memory(load_config("smoke", []), "h100", console)
    said = console.export_text()
    assert "learner rank x 1" in said
    assert "this machine has" in said
    assert said.rstrip().endswith("fits")


def test_the_exit_code_says_whether_it_fits(qwen3_4b: str) -> None:
    run = CliRunner().invoke
    assert run(app, ["plan", "spiral_qwen3_4b", qwen3_4b]).exit_code == 0
    result = run(app, ["plan", "spiral_qwen3_4b", qwen3_4b, "--gpu", "24"])
    assert result.exit_code == 1
    assert "does not fit: a rank of the learner needs" in result.output


def test_a_model_with_other_layers_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))
    with pytest.raises(UserError, match="its layers are not built like Llama's"):
        ModelShape.of(paper(f"model.name={tmp_path}"))
