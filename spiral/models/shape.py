"""The shape of a model, from its configuration alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiral.config import Config, UserError
from spiral.models import hub, smollm2
from spiral.models.names import SMOLLM2
from spiral.models.resolver import check_available, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Numbers of weights, and the widths that activations and the KV cache depend on.

    `embedding` counts the weights of the embedding and, where it is separate, of the head. `queries` and `keys` are the
    widths of all query and of all key heads; `intermediate` is that of the MLP.
    """

    weights: int
    layer: int
    embedding: int
    lora_targets: int
    """Sum of the input and output widths of the linear layers that get adapters."""
    num_layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    num_key_heads: int
    vocabulary: int
    has_qk_norm: bool

    @classmethod
    def of(cls, config: Config) -> "ModelShape":
        """The shape of `config.model`. Builds the model without memory for its weights. Raises UserError."""
        from accelerate import init_empty_weights  # type: ignore[import-untyped]
        from transformers import AutoConfig, AutoModelForCausalLM

        directory = _config_dir(config)
        try:
            settings: Any = AutoConfig.from_pretrained(directory)
            with init_empty_weights():
                model = AutoModelForCausalLM.from_config(settings)
        except (OSError, ValueError) as error:
            raise UserError(f"model {config.model.name!r}: {' '.join(str(error).split())[:200]}") from error
        model.tie_weights()
        try:
            return cls._measured(model, settings, config.learner.lora_targets)
        except AttributeError as error:
            raise UserError(f"model {config.model.name!r}: its layers are not built like Llama's: {error}") from error

    @classmethod
    def _measured(cls, model: Any, settings: Any, lora_targets: tuple[str, ...]) -> "ModelShape":
        import torch

        layers = model.get_decoder().layers
        attention = layers[0].self_attn
        ends = {id(part.weight): part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
        targets = [
            part
            for name, part in model.named_modules()
            if isinstance(part, torch.nn.Linear) and name.rpartition(".")[2] in lora_targets
        ]
        return cls(
            weights=sum(weight.numel() for weight in model.parameters()),
            layer=sum(weight.numel() for weight in layers[0].parameters()),
            embedding=sum(weight.numel() for weight in ends.values()),
            lora_targets=sum(target.in_features + target.out_features for target in targets),
            num_layers=len(layers),
            hidden=settings.hidden_size,
            intermediate=settings.intermediate_size,
            queries=attention.q_proj.out_features,
            keys=attention.k_proj.out_features,
            num_key_heads=settings.num_key_value_heads,
            vocabulary=settings.vocab_size,
            has_qk_norm=hasattr(attention, "q_norm"),
        )


def _config_dir(config: Config) -> Path:
    """A directory with the model's config.json. Of a hub model nothing else is downloaded."""
    check_available(config.model.name)
    if config.model.name == SMOLLM2:
        return smollm2.convert(print)  # a warm-up takes minutes, and leaves the shape as it is
    if config.model.name.startswith("builtin/") or Path(config.model.name).exists():
        return resolve(config)
    return hub.download(config.model.name, config_only=True)
