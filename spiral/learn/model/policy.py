"""The language model as the learner uses it: the forward pass returns statistics of the trained tokens, not logits.

The weights may be sharded (see `spiral.learn.model.sharding`): they are gathered only inside `forward`.
"""

import torch
from transformers import PreTrainedModel

from spiral.learn.kernels.logprobs import TokenStats, token_stats
from spiral.learn.kernels.packing import Batch, predicting_states


class Reference(torch.nn.Module):
    """The frozen model that the KL term keeps the policy near."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """[T, hidden size]: the hidden states from which its head predicts the trained tokens."""
        return predicting_states(self.model, batch)


class Policy(torch.nn.Module):
    """The model under training."""

    def __init__(self, model: PreTrainedModel, temperature: float, chunk: int) -> None:
        super().__init__()
        self.model = model.train()
        self._temperature = temperature
        self._chunk = chunk

    def forward(self, batch: Batch, reference: list[Reference]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The fields of TokenStats, a tuple because FSDP looks for tensors in it. `reference` holds one model or none.

        It is an argument, in a list, so that it is not registered as a submodule.
        """
        stats: TokenStats = token_stats(
            predicting_states(self.model, batch),
            self.model.get_output_embeddings(),
            batch.target_T,
            temperature=self._temperature,
            reference=(reference[0](batch), reference[0].model.get_output_embeddings()) if reference else None,
            chunk=self._chunk,
        )
        return stats.logprob_T, stats.entropy_T, stats.kl_T
