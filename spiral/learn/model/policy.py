"""The language model as the learner uses it: the forward pass returns statistics of the trained tokens, not logits.

The weights may be sharded (see `spiral.learn.model.sharding`): they are gathered only inside `forward`.
"""

import torch
from transformers import PreTrainedModel

from spiral.learn.kernels.logprobs import TokenStats, token_stats
from spiral.learn.kernels.packing import Batch, predicting_states
from spiral.learn.model.head import adapted
from spiral.learn.model.reference import REFERENCE, TRAINED, Reference, ReferenceAdapter


class Policy(torch.nn.Module):
    """The model under training."""

    def __init__(self, model: PreTrainedModel, temperature: float, chunk: int) -> None:
        super().__init__()
        self.model = model.train()
        self._temperature = temperature
        self._chunk = chunk

    def forward(
        self, batch: Batch, reference: Reference | ReferenceAdapter | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The fields of TokenStats, a tuple because FSDP looks for tensors in it.

        The reference is an argument so that it is not registered as a submodule.
        """
        stats: TokenStats = token_stats(
            *adapted(predicting_states(self.model, batch), self.model, TRAINED),
            batch.target_T,
            temperature=self._temperature,
            reference=None if reference is None else adapted(reference(batch), reference.model, REFERENCE),
            chunk=self._chunk,
        )
        return stats.logprob_T, stats.entropy_T, stats.kl_T
