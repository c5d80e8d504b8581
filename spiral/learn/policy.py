"""The language model as the learner uses it: a forward pass ends in statistics of the trained tokens, not in logits.

The weights may be sharded (see `spiral.learn.shard`): they are whole only inside `forward`.
"""

import torch
from transformers import PreTrainedModel

from spiral.learn.logprobs import TokenStats, token_stats
from spiral.learn.pack import Batch, predicting_states


class Reference(torch.nn.Module):
    """The model that the policy is kept near. Never trained."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """[T, hidden size]: the states from which its head predicts the trained tokens."""
        return predicting_states(self.model, batch)


class Policy(torch.nn.Module):
    """The model that is trained."""

    def __init__(self, model: PreTrainedModel, temperature: float, chunk: int) -> None:
        super().__init__()
        self.model = model.train()
        self._temperature = temperature
        self._chunk = chunk

    def forward(self, batch: Batch, reference: list[Reference]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The fields of TokenStats; `reference` holds one model, or none. (A list: it is no part of this module.)"""
        stats: TokenStats = token_stats(
            predicting_states(self.model, batch),
            self.model.get_output_embeddings(),
            batch.target_T,
            temperature=self._temperature,
            reference=(reference[0](batch), reference[0].model.get_output_embeddings()) if reference else None,
            chunk=self._chunk,
        )
        return stats.logprob_T, stats.entropy_T, stats.kl_T
