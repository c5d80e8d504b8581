"""Which parameters are trained, and the files in which vLLM, transformers and peft load them."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import GraniteConfig, GraniteForCausalLM, LlamaForCausalLM

from spiral.config import UserError
from spiral.config.tree import ModelConfig
from spiral.learn.kernels.logprobs import token_stats
from spiral.learn.learner import Learner
from spiral.learn.model.head import adapted
from spiral.learn.model.parameters import Adapters, AllWeights, Trainable, merge
from spiral.learn.model.policy import Policy
from spiral.learn.model.reference import REFERENCE, TRAINED, activate
from spiral.learn.model.sharding import materialise
from spiral.types import WeightsRef
from tests.learners import config, learner, model_dir, save

__all__ = ["model_dir"]  # a fixture


@pytest.fixture
def tied_dir(model_dir: Path, tmp_path: Path) -> Path:
    """A model whose head shares the embedding's tensor, as in many small language models."""
    settings = LlamaForCausalLM.from_pretrained(model_dir).config
    settings.tie_word_embeddings = True
    LlamaForCausalLM(settings).save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


def loaded(kind: Trainable, model_dir: Path) -> Policy:
    """The policy with the values of `model_dir`."""
    policy = Policy(kind.build(model_dir), temperature=1.0, chunk=64)
    materialise(policy, "cpu")
    policy.model.tie_weights()
    kind.initialise(policy, model_dir)
    return policy


def published(one: Learner) -> dict[str, torch.Tensor]:
    """The tensors of the files that `one` publishes."""
    published = one.publish(1)
    assert isinstance(published, WeightsRef)
    files = [load_file(file) for file in sorted(Path(published.location).glob("*.safetensors"))]
    assert sum(map(len, files)) == len(dict(item for file in files for item in file.items()))
    return dict(item for file in files for item in file.items())


def test_a_model_is_loaded_as_transformers_loads_it(model_dir: Path, tied_dir: Path) -> None:
    tokens = torch.tensor([[1, 2, 3]])
    for directory in (model_dir, tied_dir):
        model = loaded(AllWeights(config()), directory).model
        model.set_attn_implementation("sdpa")
        assert torch.equal(model(tokens).logits, LlamaForCausalLM.from_pretrained(directory)(tokens).logits)


def test_a_model_takes_no_memory_before_it_is_read(model_dir: Path) -> None:
    for kind in (AllWeights(config()), adapters(model_dir, kl_coef=0.1)):
        model = kind.build(model_dir)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_weights_under_other_names_are_refused(model_dir: Path, tmp_path: Path) -> None:
    weights = load_file(model_dir / "model.safetensors")
    (tmp_path / "config.json").write_text((model_dir / "config.json").read_text())
    fused = {name.replace("up_proj", "gate_up_proj"): tensor for name, tensor in weights.items()}
    save_file(fused, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"holds no model.layers.0.mlp.up_proj.weight and 1 more"):
        loaded(AllWeights(config()), tmp_path)


def test_a_tied_tensor_is_published_once(tied_dir: Path, model_dir: Path) -> None:
    for file in model_dir.glob("tokenizer*"):
        (tied_dir / file.name).write_bytes(file.read_bytes())
    one = learner(tied_dir)
    names = one._trainable.live(one._policy).keys()
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= names
    assert published(one).keys() == names - {"lm_head.weight"}
    one.close()


@pytest.mark.parametrize("num_cores", [2, 16])
@pytest.mark.parametrize("file_bytes", [2**27, 4000])
def test_weights_are_published_in_files_of_limited_size(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, file_bytes: int, num_cores: int
) -> None:
    monkeypatch.setattr("spiral.learn.weights.publisher.GATHERED_BYTES", file_bytes)
    monkeypatch.setattr("spiral.learn.model.tensor_files.usable_cores", lambda: list(range(num_cores)))
    one = learner(model_dir)
    tensors, expected = published(one), LlamaForCausalLM.from_pretrained(model_dir).state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    one.close()


def test_master_weights_are_float32_and_published_ones_have_the_compute_type(model_dir: Path) -> None:
    kind = AllWeights(config().model_copy(update={"model": config().model.model_copy(update={"dtype": "bfloat16"})}))
    assert {p.dtype for p in kind.build(model_dir).parameters()} == {torch.float32}
    assert kind.published_dtype == torch.bfloat16


def test_a_model_that_transforms_its_logits_is_refused(model_dir: Path, tmp_path: Path) -> None:
    settings = LlamaForCausalLM.from_pretrained(model_dir).config.to_dict()
    shape = GraniteConfig(
        **{k: settings[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")}, logits_scaling=8
    )
    GraniteForCausalLM(shape).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"it transforms its logits \(logits_scaling\)"):
        AllWeights(config()).build(tmp_path)


def adapters(model_dir: Path, **options: object) -> Adapters:
    settings = config(lora_rank=4, lora_alpha=8, **options)
    return Adapters(settings.model_copy(update={"model": settings.model.model_copy(update={"name": str(model_dir)})}))


def test_only_adapters_are_trained_and_new_ones_change_nothing(model_dir: Path) -> None:
    model, plain = loaded(adapters(model_dir), model_dir).model, LlamaForCausalLM.from_pretrained(model_dir)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * 2  # layers, linear layers in each, matrices
    assert all(".lora_" in name for name in trained)
    tokens = torch.tensor([[1, 2, 3]])
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(tokens).logits, plain(tokens).logits)


def test_adapters_are_float32_while_the_model_has_its_compute_type(model_dir: Path) -> None:
    settings = config(lora_rank=4)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"dtype": "bfloat16"})})
    types = {p.dtype: p.requires_grad for p in Adapters(settings).build(model_dir).parameters()}
    assert types == {torch.bfloat16: False, torch.float32: True}


def test_lora_targets_selects_the_layers_that_get_adapters(model_dir: Path) -> None:
    model = adapters(model_dir, lora_targets=("q_proj", "v_proj")).build(model_dir)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2
    with pytest.raises(UserError, match="learner.lora_targets: .*nope"):
        adapters(model_dir, lora_targets=("nope",)).build(model_dir)


def test_an_adapter_on_the_head_is_scored_and_trained_like_peft_s(model_dir: Path) -> None:
    """Log-probabilities and the gradients of the adapter's matrices, of both adapters of the head."""
    model = loaded(adapters(model_dir, lora_targets=("q_proj", "lm_head"), kl_coef=0.1), model_dir).model
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3 if ".lora_" in name else parameter.data
    model.set_attn_implementation("sdpa")
    tokens, target = torch.tensor([[1, 2, 3]]), torch.tensor([4, 5, 6])
    matrices = [getattr(model.lm_head, name)[TRAINED].weight for name in ("lora_A", "lora_B")]

    def gradients(logprob_T: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(logprob_T.sum(), matrices))

    for adapter in (TRAINED, REFERENCE):
        activate(model, adapter)
        hidden = model.model(tokens).last_hidden_state[0]
        ours = token_stats(*adapted(hidden, model, adapter), target, temperature=1.0, chunk=2).logprob_T
        theirs = model(tokens).logits[0].log_softmax(-1).gather(1, target[:, None])[:, 0]
        assert torch.allclose(ours, theirs, atol=1e-5)
        if adapter == TRAINED:
            for one, other in zip(gradients(ours), gradients(theirs), strict=True):
                assert torch.allclose(one, other, atol=1e-5)
                assert one.abs().max() > 1e-3


def test_an_adapter_on_a_tied_head_is_refused(tied_dir: Path) -> None:
    with pytest.raises(UserError, match="this model's head is tied to its embedding"):
        adapters(tied_dir, lora_targets=("lm_head",)).build(tied_dir)


@pytest.fixture
def adapter_dir(model_dir: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A checkpoint with an adapter, and the logits of the adapted model."""
    settings = config(lora_rank=4, lora_alpha=8)
    one = Learner(settings.model_copy(update={"model": ModelConfig(name=str(model_dir))}), model_dir)
    for parameter in one._model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    directory = save(one, tmp_path)
    one._model.set_attn_implementation("sdpa")
    return directory, one._model(torch.tensor([[1, 2, 3]])).logits.detach()


def test_saved_adapters_are_peft_files(model_dir: Path, adapter_dir: tuple[Path, torch.Tensor]) -> None:
    directory, expected = adapter_dir
    plain = LlamaForCausalLM.from_pretrained(model_dir)
    logits = PeftModel.from_pretrained(plain, directory)(torch.tensor([[1, 2, 3]])).logits
    assert torch.allclose(logits, expected, atol=1e-6)
    assert (expected - LlamaForCausalLM.from_pretrained(model_dir)(torch.tensor([[1, 2, 3]])).logits).abs().max() > 0.1


def test_an_adapter_names_its_base_model(model_dir: Path, tmp_path: Path) -> None:
    """By directory, or by hub id wherever the model was downloaded to."""
    on_hub = Adapters(config(lora_rank=4).model_copy(update={"model": ModelConfig(name="org/model")}))
    for kind, name in ((adapters(model_dir), str(model_dir)), (on_hub, "org/model")):
        kind.write_config(kind.build(model_dir), tmp_path / "saved")
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
