"""The reference model, which the KL term keeps the policy near: a frozen model, or a frozen adapter of the policy's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from spiral.learn.kernels.packing import Batch, predicting_states

TRAINED, REFERENCE = "default", "reference"  # the adapters of a model, by the names that peft gives them


class Reference(torch.nn.Module):
    """A frozen model."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """[T, hidden size]: the hidden states from which its head predicts the trained tokens."""
        return predicting_states(self.model, batch)


class ReferenceAdapter(torch.nn.Module):
    """The policy's `model` with its reference adapter instead of the trained one. Must run inside the policy."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See `Reference.forward`."""
        with _activated(self.model, REFERENCE):
            return predicting_states(self.model, batch)


@contextmanager
def _activated(model: PreTrainedModel, adapter: str) -> Iterator[None]:
    activate(model, adapter)
    try:
        yield
    finally:
        activate(model, TRAINED)


def activate(model: PreTrainedModel, adapter: str) -> None:
    """Make the model compute with this one of its adapters. (peft's own function also changes what is trained.)"""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module._active_adapter = [adapter]
