"""Which parameters are trained, and the files in which vLLM, transformers and peft load them."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GraniteConfig, GraniteForCausalLM, LlamaForCausalLM

from spiral.config import UserError
from spiral.config.tree import ModelConfig
from spiral.learn.model.parameters import ADAPTER_WEIGHTS, Adapters, AllWeights, merge
from spiral.learn.model.policy import Reference
from tests.unit.test_learner import config, model_dir

__all__ = ["model_dir"]  # a fixture


@pytest.fixture
def tied_dir(model_dir: Path, tmp_path: Path) -> Path:
    """A model whose head shares the embedding's tensor, as in many small language models."""
    settings = LlamaForCausalLM.from_pretrained(model_dir).config
    settings.tie_word_embeddings = True
    LlamaForCausalLM(settings).save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


def published(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")  # type: ignore[no-any-return]


def test_a_tied_tensor_is_published_once(tied_dir: Path, tmp_path: Path) -> None:
    kind = AllWeights(config())
    weights = kind.live(Reference(kind.load(tied_dir)))
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= weights.keys()
    kind.publish(weights, tmp_path)
    assert published(tmp_path).keys() == weights.keys() - {"lm_head.weight"}


def test_untied_tensors_are_all_published(model_dir: Path, tmp_path: Path) -> None:
    kind = AllWeights(config())
    weights = kind.live(Reference(kind.load(model_dir)))
    kind.publish(weights, tmp_path)
    assert published(tmp_path).keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in published(tmp_path).items())


def test_master_weights_are_float32_and_published_ones_have_the_compute_type(model_dir: Path) -> None:
    kind = AllWeights(config().model_copy(update={"model": config().model.model_copy(update={"dtype": "bfloat16"})}))
    assert {p.dtype for p in kind.load(model_dir).parameters()} == {torch.float32}
    assert kind.published_dtype == torch.bfloat16


def test_a_model_that_transforms_its_logits_is_refused(model_dir: Path, tmp_path: Path) -> None:
    settings = LlamaForCausalLM.from_pretrained(model_dir).config.to_dict()
    shape = GraniteConfig(
        **{k: settings[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")}, logits_scaling=8
    )
    GraniteForCausalLM(shape).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"it transforms its logits \(logits_scaling\)"):
        AllWeights(config()).load(tmp_path)


def adapters(model_dir: Path, **options: object) -> Adapters:
    settings = config(lora_rank=4, lora_alpha=8, **options)
    return Adapters(settings.model_copy(update={"model": settings.model.model_copy(update={"name": str(model_dir)})}))


def test_only_adapters_are_trained_and_new_ones_change_nothing(model_dir: Path) -> None:
    model, plain = adapters(model_dir).load(model_dir), LlamaForCausalLM.from_pretrained(model_dir)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * 2  # layers, linear layers in each, matrices
    assert all(".lora_" in name for name in trained)
    tokens = torch.tensor([[1, 2, 3]])
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(tokens).logits, plain(tokens).logits)


def test_adapters_are_float32_while_the_model_has_its_compute_type(model_dir: Path) -> None:
    settings = config(lora_rank=4)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"dtype": "bfloat16"})})
    types = {p.dtype: p.requires_grad for p in Adapters(settings).load(model_dir).parameters()}
    assert types == {torch.bfloat16: False, torch.float32: True}


def test_lora_targets_selects_the_layers_that_get_adapters(model_dir: Path) -> None:
    model = adapters(model_dir, lora_targets=("q_proj", "v_proj")).load(model_dir)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2
    with pytest.raises(UserError, match="learner.lora_targets: .*nope"):
        adapters(model_dir, lora_targets=("nope",)).load(model_dir)


@pytest.fixture
def adapter_dir(model_dir: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A directory with an adapter, and the logits of the adapted model."""
    kind = adapters(model_dir)
    model = kind.load(model_dir)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    kind.save(model, kind.live(Reference(model)), tmp_path)
    model.set_attn_implementation("sdpa")
    return tmp_path, model(torch.tensor([[1, 2, 3]])).logits.detach()


def test_saved_adapters_are_peft_files(model_dir: Path, adapter_dir: tuple[Path, torch.Tensor]) -> None:
    directory, expected = adapter_dir
    plain = LlamaForCausalLM.from_pretrained(model_dir)
    logits = PeftModel.from_pretrained(plain, directory)(torch.tensor([[1, 2, 3]])).logits
    assert torch.allclose(logits, expected, atol=1e-6)
    assert (expected - LlamaForCausalLM.from_pretrained(model_dir)(torch.tensor([[1, 2, 3]])).logits).abs().max() > 0.1


def test_saved_adapters_can_be_read_back(model_dir: Path, adapter_dir: tuple[Path, torch.Tensor]) -> None:
    saved = adapters(model_dir).read(adapter_dir[0])
    assert saved.keys() == load_file(adapter_dir[0] / ADAPTER_WEIGHTS).keys()
    assert len(saved) == 28


def test_an_adapter_names_its_base_model(model_dir: Path, tmp_path: Path) -> None:
    """By directory, or by hub id wherever the model was downloaded to."""
    on_hub = Adapters(config(lora_rank=4).model_copy(update={"model": ModelConfig(name="org/model")}))
    for kind, name in ((adapters(model_dir), str(model_dir)), (on_hub, "org/model")):
        model = kind.load(model_dir)
        kind.save(model, kind.live(Reference(model)), tmp_path / "saved")
        assert json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["base_model_name_or_path"] == name


def test_an_adapter_whose_base_model_is_missing_cannot_be_merged(adapter_dir: tuple[Path, torch.Tensor]) -> None:
    file = adapter_dir[0] / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/gone"}))
    with pytest.raises(ValueError, match="the adapter's base model /gone cannot be loaded"):
        merge(adapter_dir[0])


def test_a_merged_model_has_the_logits_of_the_adapted_one(
    adapter_dir: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    directory, expected = adapter_dir
    merge(directory).save_pretrained(tmp_path / "merged")
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(merged(torch.tensor([[1, 2, 3]])).logits, expected, atol=1e-5)
