"""Parameters that are trained, and their file format: all weights of the model, or LoRA adapters.

Parameters have the same names in memory as in the files. Those in memory may be sharded; those in files never are.
"""

import math
import warnings
from pathlib import Path
from typing import Protocol

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from spiral.config import Config, UserError
from spiral.learn.kernels.attention import PACKED_ATTENTION
from spiral.learn.model.head import has_adapter
from spiral.learn.model.reference import REFERENCE, TRAINED, Reference, ReferenceAdapter, activate
from spiral.learn.model.sharding import local_rows, weights_at_rest
from spiral.learn.model.tensor_files import TensorFiles, read_rows

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODEL, ADAPTER_MODEL = "model", "adapter_model"  # the stems of the files' names


class Trainable(Protocol):
    """Which parameters are trained, and how they are read and written. Generators get them in `published_dtype`."""

    published_dtype: torch.dtype
    stem: str
    """How the names of the files with parameters begin."""
    is_one_file: bool
    """Whether those who read them expect a single file."""

    def build(self, model_dir: Path) -> PreTrainedModel:
        """The model without values: its parameters are on the meta device. Those to be trained require a gradient."""
        ...

    def reference(self, model: PreTrainedModel, model_dir: Path) -> Reference | ReferenceAdapter:
        """The reference for the policy's `model`: a new model without values, or an adapter of this one."""
        ...

    def initialise(self, wrapper: torch.nn.Module, model_dir: Path) -> None:
        """Read this rank's rows of all parameters of the model inside a `Policy` or `Reference`."""
        ...

    def live(self, wrapper: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The parameters of a `Policy` that are trained, or their counterparts in a reference, by name."""
        ...

    def write_config(self, model: PreTrainedModel, directory: Path) -> None:
        """Write what transformers, vLLM or peft need to know besides the parameters."""
        ...


def trainable(config: Config) -> Trainable:
    """Adapters if `learner.lora_rank` is set, otherwise all weights."""
    return Adapters(config) if config.learner.lora_rank else AllWeights(config)


class AllWeights:
    """All weights are trained. Master weights are always float32, because bfloat16 rounds small updates away."""

    stem = MODEL
    is_one_file = False

    def __init__(self, config: Config) -> None:
        self.published_dtype = DTYPES[config.model.dtype]
        # The increments of a moving average are too small for bfloat16.
        self._reference_dtype = self.published_dtype if config.learner.reference_ema is None else torch.float32

    def build(self, model_dir: Path) -> PreTrainedModel:
        return without_values(model_dir, torch.float32)

    def reference(self, model: PreTrainedModel, model_dir: Path) -> Reference:
        """A model in the compute type, to which all layers would cast its weights anyway, or a float32 average."""
        return Reference(without_values(model_dir, self._reference_dtype))

    def initialise(self, wrapper: torch.nn.Module, model_dir: Path) -> None:
        _read_model(self.live(wrapper), model_dir)

    def live(self, wrapper: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name.removeprefix("model."): tensor for name, tensor in weights_at_rest(wrapper).items()}

    def write_config(self, model: PreTrainedModel, directory: Path) -> None:
        model.config.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)


class Adapters:
    """LoRA (Hu et al. 2021, arXiv 2106.09685), with peft's file format.

    The model is frozen, in its compute type; only the two float32 matrices of rank `learner.lora_rank` next to each
    linear layer are trained. The reference model is the same one with another, frozen pair of matrices.
    """

    published_dtype = torch.float32
    stem = ADAPTER_MODEL
    is_one_file = True

    def __init__(self, config: Config) -> None:
        self._dtype = DTYPES[config.model.dtype]
        self._model_name = config.model.name
        self._seed = config.seed
        self._adapters = (TRAINED, REFERENCE) if config.learner.kl_coef > 0 else (TRAINED,)
        cfg = config.learner
        self._lora = LoraConfig(
            r=cfg.lora_rank,
            lora_alpha=cfg.lora_alpha,
            target_modules=list(cfg.lora_targets),
            task_type="CAUSAL_LM",
        )

    def build(self, model_dir: Path) -> PreTrainedModel:
        """The model with adapters. Raises UserError if it has no layer named in `learner.lora_targets`."""
        model = without_values(model_dir, self._dtype)
        # Where vLLM, peft and transformers look for the base model: a hub id stays valid on other machines.
        on_hub = not self._model_name.startswith("builtin/") and not Path(self._model_name).exists()
        self._lora.base_model_name_or_path = self._model_name if on_hub else str(model_dir)
        try:
            with warnings.catch_warnings():  # peft warns of a second adapter, which is intended
                warnings.simplefilter("ignore", UserWarning)
                for adapter in self._adapters:
                    inject_adapter_in_model(self._lora, model, adapter, low_cpu_mem_usage=True)
        except ValueError as error:
            raise UserError(f"learner.lora_targets: {error}") from error
        if model.config.tie_word_embeddings and has_adapter(model):
            raise UserError("learner.lora_targets: this model's head is tied to its embedding: no adapter for it alone")
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
            parameter.requires_grad = f".{TRAINED}." in name
        activate(model, TRAINED)
        return model

    def reference(self, model: PreTrainedModel, model_dir: Path) -> ReferenceAdapter:
        return ReferenceAdapter(model)

    @torch.no_grad()
    def initialise(self, wrapper: torch.nn.Module, model_dir: Path) -> None:
        """Read the model, and initialise adapters as peft does, so that they do not change its output yet.

        Every rank draws whole matrices, each from a stream of its own, and keeps its rows: the values depend neither
        on the number of ranks nor on the adapter.
        """
        weights = {name.removeprefix("model."): tensor for name, tensor in weights_at_rest(wrapper).items()}
        base = {name.replace(".base_layer.", "."): tensor for name, tensor in weights.items() if ".lora_" not in name}
        _read_model(base, model_dir)
        for adapter in self._adapters:
            for number, (name, tensor) in enumerate(self._of(wrapper, adapter).items()):
                rows, first = local_rows(tensor)
                if ".lora_B." in name:
                    rows.zero_()
                else:
                    generator = torch.Generator().manual_seed(self._seed + number)
                    bound = 1 / math.sqrt(tensor.shape[1])
                    drawn = torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator)
                    rows.copy_(drawn[first : first + len(rows)])

    def live(self, wrapper: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The adapter's parameters, under the names that peft gives them in its files."""
        return self._of(wrapper, REFERENCE if isinstance(wrapper, ReferenceAdapter) else TRAINED)

    def _of(self, wrapper: torch.nn.Module, adapter: str) -> dict[str, torch.Tensor]:
        own = f".{adapter}."
        weights = weights_at_rest(wrapper).items()
        return {f"base_model.{name.replace(own, '.')}": tensor for name, tensor in weights if own in name}

    def write_config(self, model: PreTrainedModel, directory: Path) -> None:
        self._lora.save_pretrained(str(directory))


def without_values(model_dir: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model whose parameters are on the meta device: they take no memory, and have no values yet.

    Raises UserError if its logits are not the plain output of its head, which is what the learner scores.
    """
    config = AutoConfig.from_pretrained(model_dir)
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise UserError(f"the learner cannot train this model: it transforms its logits ({name})")
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=PACKED_ATTENTION)
    model.tie_weights()
    if (model_dir / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(model_dir)
    return model.eval()


def _read_model(tensors: dict[str, torch.Tensor], model_dir: Path) -> None:
    """Read this rank's rows of a whole model. Raises UserError if its files do not hold them under these names."""
    try:
        read_rows(tensors, TensorFiles(model_dir, MODEL))
    except ValueError as error:
        raise UserError(
            f"the learner cannot read this model: {error}. It must be stored as safetensors files, under the names "
            "that transformers has in memory; most mixtures of experts are not"
        ) from error


def merge(directory: Path) -> PreTrainedModel:
    """The base model with the adapter in `directory` added to its weights, in float32.

    Raises ValueError if the base model cannot be loaded from the path or hub id that the adapter names.
    """
    lora = LoraConfig.from_pretrained(str(directory))
    try:
        model = AutoModelForCausalLM.from_pretrained(lora.base_model_name_or_path, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the adapter's base model {lora.base_model_name_or_path} cannot be loaded: {error}"
        ) from error
    return PeftModel.from_pretrained(model, directory).merge_and_unload()
