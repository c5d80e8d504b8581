"""Trainable parameters and their on-disk format: all weights of the model, or LoRA adapters.

Weights have the same names in memory as in the files. Those in memory may be sharded; those in files never are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from spiral.config import Config, UserError
from spiral.learn.kernels.attention import PACKED_ATTENTION
from spiral.learn.model.sharding import untied, weights_at_rest

ADAPTER_WEIGHTS = "adapter_model.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Trainable(Protocol):
    """Which parameters are trained, and how they are read and written. Generators get them in `published_dtype`."""

    published_dtype: torch.dtype

    def load(self, model_dir: Path) -> PreTrainedModel:
        """Load the model. Exactly the parameters to be trained require a gradient."""
        ...

    def live(self, wrapper: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The trained parameters of the model inside a `Policy` or `Reference`, by name; sharded if it is."""
        ...

    def read(self, directory: Path) -> Mapping[str, torch.Tensor]:
        """Read the weights that `save` wrote."""
        ...

    def save(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write `weights` as a checkpoint that transformers and vLLM can load."""
        ...

    def publish(self, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write `weights` as a running generator loads them."""
        ...


def trainable(config: Config) -> Trainable:
    """Adapters if `learner.lora_rank` is set, otherwise all weights."""
    return Adapters(config) if config.learner.lora_rank else AllWeights(config)


class AllWeights:
    """All weights are trained. Master weights are always float32, because bfloat16 rounds small updates away."""

    def __init__(self, config: Config) -> None:
        self.published_dtype = DTYPES[config.model.dtype]

    def load(self, model_dir: Path) -> PreTrainedModel:
        return _from_pretrained(model_dir, torch.float32)

    def live(self, wrapper: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name.removeprefix("model."): tensor for name, tensor in weights_at_rest(wrapper).items()}

    def read(self, directory: Path) -> Mapping[str, torch.Tensor]:
        return dict(self.load(directory).state_dict())

    def save(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        model.save_pretrained(directory, state_dict=dict(weights))

    def publish(self, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in untied(weights).items()}  # vLLM ties them itself
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


class Adapters:
    """LoRA (Hu et al. 2021, arXiv 2106.09685), with peft's file format.

    The model is frozen, in its compute type; only the two float32 matrices of rank `learner.lora_rank` next to each
    linear layer are trained.
    """

    published_dtype = torch.float32

    def __init__(self, config: Config) -> None:
        self._dtype = DTYPES[config.model.dtype]
        self._model_name = config.model.name
        cfg = config.learner
        self._lora = LoraConfig(
            r=cfg.lora_rank,
            lora_alpha=cfg.lora_alpha,
            target_modules=list(cfg.lora_targets),
            task_type="CAUSAL_LM",
        )

    def load(self, model_dir: Path) -> PreTrainedModel:
        """Load the model with new adapters, which do not change its output yet.

        Raises UserError if the model has no layer named in `learner.lora_targets`.
        """
        model = _from_pretrained(model_dir, self._dtype)
        # Where vLLM, peft and transformers look for the base model: a hub id stays valid on other machines.
        on_hub = not self._model_name.startswith("builtin/") and not Path(self._model_name).exists()
        self._lora.base_model_name_or_path = self._model_name if on_hub else str(model_dir)
        try:
            inject_adapter_in_model(self._lora, model)
        except ValueError as error:
            raise UserError(f"learner.lora_targets: {error}") from error
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return model

    def live(self, wrapper: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The adapters' parameters, under the names that peft gives them in its files."""
        weights = weights_at_rest(wrapper).items()
        return {f"base_model.{name.replace('.default.', '.')}": tensor for name, tensor in weights if ".lora_" in name}

    def read(self, directory: Path) -> Mapping[str, torch.Tensor]:
        return load_file(directory / ADAPTER_WEIGHTS)

    def save(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        self.publish(weights, directory)

    def publish(self, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        self._lora.save_pretrained(str(directory))
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / ADAPTER_WEIGHTS)


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


def _from_pretrained(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model. Raises UserError if its logits are not the plain output of its head, which the learner scores."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=PACKED_ATTENTION)
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier"):
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise UserError(f"the learner cannot train this model: it transforms its logits ({name})")
    return model
