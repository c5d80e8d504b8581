"""What of a model is trained, and the files it is kept in: all of its weights, or adapters beside them (LoRA).

Weights have the names they have in those files. Live ones may be sharded; saved ones are whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from spiral.config import Config, UserError
from spiral.learn.attention import PACKED_ATTENTION
from spiral.learn.shard import untied, weights_at_rest

ADAPTER_WEIGHTS = "adapter_model.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Trainable(Protocol):
    """One of the two kinds. Generators get weights in `published_dtype`."""

    published_dtype: torch.dtype

    def load(self, model_dir: Path) -> PreTrainedModel:
        """The model, of whose parameters those that are to be trained require a gradient."""
        ...

    def live(self, wrapper: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The trained weights of the model inside `Policy` or `Reference`."""
        ...

    def read(self, directory: Path) -> Mapping[str, torch.Tensor]:
        """The weights that `save` wrote."""
        ...

    def save(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write a checkpoint of `weights`, which transformers and vLLM load."""
        ...

    def publish(self, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write what a running generator loads."""
        ...


def trainable(config: Config) -> Trainable:
    """The kind that the config asks for."""
    return Adapters(config) if config.learner.lora_rank else AllWeights(config)


class AllWeights:
    """Everything is trained. Master weights are float32 whatever the compute type: small updates vanish in bfloat16."""

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
        tensors = {name: tensor.contiguous() for name, tensor in untied(weights).items()}  # vLLM ties by itself
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


class Adapters:
    """LoRA (Hu et al. 2021, arXiv 2106.09685): the model is frozen, in its compute type; two float32 matrices of rank
    config.learner.lora_rank beside each linear layer learn. Files are peft's.
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
        """The adapters change nothing yet. Raises UserError if config.learner.lora_targets is not in the model."""
        model = _from_pretrained(model_dir, self._dtype)
        # What vLLM, peft and transformers will look for: a hub id stays one, whatever directory it was fetched to.
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
        """The names are peft's, as in its files."""
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
    """The model with the adapter in `directory` added to its weights, in float32: an ordinary model.

    Raises ValueError if the model that the adapter belongs to is not where it was.
    """
    lora = LoraConfig.from_pretrained(str(directory))
    try:
        model = AutoModelForCausalLM.from_pretrained(lora.base_model_name_or_path, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(f"the adapter's model, {lora.base_model_name_or_path}, cannot be loaded: {error}") from error
    return PeftModel.from_pretrained(model, directory).merge_and_unload()


def _from_pretrained(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Raises UserError for a model whose logits are more than its head's product, which is all that is scored here."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=PACKED_ATTENTION)
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier"):
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise UserError(f"the learner cannot train this model: its logits go through {name}")
    return model
