"""Packing: samples laid end to end in one sequence of tokens, without padding. Equal samples are laid out once.

Suffixes: _N packed tokens, _S segments (turns) in a batch, _T trained tokens (those the policy sampled).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from spiral.learn.kernels.attention import Layout
from spiral.learn.kernels.sample_table import SampleTable, Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A micro batch: samples of a SampleTable laid end to end. All tensors are on one device.

    Samples with the same tokens share them in `token_ids_N`, which `lengths` cuts into sequences: in small games most
    samples are equal, and one forward pass serves them all. `predictor_T` holds the positions whose hidden states
    predict the trained tokens `target_T`, those of equal samples more than once. The trained tokens of a
    segment are adjacent, and `segment_T` numbers the segments of the batch from 0 to `num_segments` - 1. `current_T` is
    True for tokens that were sampled with the current policy version. `table_segment_S` holds the numbers that the
    segments have in the table.
    """

    token_ids_N: torch.Tensor
    position_ids_N: torch.Tensor
    lengths: tuple[int, ...]
    predictor_T: torch.Tensor
    target_T: torch.Tensor
    behavior_logprob_T: torch.Tensor
    advantage_T: torch.Tensor
    segment_T: torch.Tensor
    current_T: torch.Tensor
    num_segments: int
    table_segment_S: NDArray[np.int64]
    episode_ids: tuple[int, ...]


def make_batch(
    table: SampleTable, samples: Sequence[int], current_version: int, device: torch.device | str = "cpu"
) -> Batch:
    """The batch of these `samples` of `table`, in their order; advantages and logprobs are float32.

    Tokens count as current if the whole sample was sampled with policy version `current_version`.
    """
    chosen = np.asarray(samples)
    first, number_B = table.distinct(chosen)
    tokens, trained, segments = table.tokens.of(first), table.trained.of(chosen), table.segments.of(chosen)
    packed_tokens, packed_segments = Spans.adjacent(tokens.count), Spans.adjacent(segments.count)
    token_ids_N = np.concatenate(tokens.pieces(table.token_ids_N), dtype=np.int64)
    row_T = trained.indices()
    shift_B = packed_tokens.start[number_B] - table.tokens.start[chosen]
    trained_T = table.trained_T[row_T] + np.repeat(shift_B, trained.count)
    segment_T = table.segment_T[row_T]
    position_ids_N = np.arange(len(token_ids_N)) - np.repeat(packed_tokens.start, tokens.count)
    assert position_ids_N[trained_T].all(), "the first token of a sample has no predictor"
    is_current = (table.min_version_B[chosen] == current_version) & (table.max_version_B[chosen] == current_version)

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Batch(
        token_ids_N=tensor(token_ids_N),
        position_ids_N=tensor(position_ids_N),
        lengths=tuple(tokens.count.tolist()),
        predictor_T=tensor(trained_T - 1),
        target_T=tensor(token_ids_N[trained_T]),
        behavior_logprob_T=tensor(table.behavior_logprob_T[row_T]),
        advantage_T=tensor(table.advantage_S[segment_T]),
        segment_T=tensor(segment_T + np.repeat(packed_segments.start - segments.start, trained.count)),
        current_T=tensor(np.repeat(is_current, trained.count)),
        num_segments=int(segments.count.sum()),
        table_segment_S=segments.indices(),
        episode_ids=tuple(table.episode_id_B[chosen].tolist()),
    )


def predicting_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """[T, hidden size]: the hidden states from which the head of a causal language model predicts the trained tokens.

    The model's attention implementation must be PACKED_ATTENTION.
    """
    decoded = model.get_decoder()(
        input_ids=batch.token_ids_N[None],
        position_ids=batch.position_ids_N[None],
        use_cache=False,
        layout=Layout.of(batch.lengths, batch.token_ids_N.device),
    )
    return decoded.last_hidden_state[0, batch.predictor_T]  # type: ignore[no-any-return]
