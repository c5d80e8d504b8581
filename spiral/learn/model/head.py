"""The language-model head, which may have a LoRA adapter (`lm_head` in `learner.lora_targets`)."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from spiral.learn.kernels.logprobs import LmHead


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether the model's head has an adapter."""
    return isinstance(model.get_output_embeddings(), LoraLayer)


def adapted(hidden_TD: torch.Tensor, model: PreTrainedModel, adapter: str) -> tuple[torch.Tensor, LmHead]:
    """Hidden states and a plain head that give the logits of the model's head with this adapter, if it has one.

    `W h + s B A h` is `[W, B] [h, s A h]`: the product of B and A, which is as large as W, is never computed.
    """
    head: Any = model.get_output_embeddings()
    if not has_adapter(model):
        return hidden_TD, LmHead(head.weight, head.bias)
    base, down, up = head.base_layer, head.lora_A[adapter].weight, head.lora_B[adapter].weight
    inner_TR = head.scaling[adapter] * (hidden_TD.to(down.dtype) @ down.T)
    hidden_TE = torch.cat([hidden_TD, inner_TR.to(hidden_TD.dtype)], dim=1)
    return hidden_TE, LmHead(torch.cat([base.weight, up.to(base.weight.dtype)], dim=1), base.bias)
