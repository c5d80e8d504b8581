"""Packing: many samples in one row of tokens without padding, and attention that stays inside each sample.

Suffixes: _N packed tokens, _S segments (turns) in a batch, _T trained tokens (those the policy sampled),
_B samples, _L tokens of the longest sample, _H heads, _D head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from spiral.types import Sample

PACKED_ATTENTION = "spiral_packed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples laid end to end. All tensors are on one device.

    `predictor_T` holds the places in the row whose hidden state predicts the trained tokens `target_T`. Trained tokens
    of a segment are adjacent, and `segment_T` numbers the segments of the batch from 0 to `num_segments` - 1.
    `current_T` marks tokens whose sampler had the newest weights.
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
    episode_ids: tuple[int, ...]


def plan_rows(lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
    """Which samples share a row: indices into `lengths`, neighbours alike in length, at most `pack_tokens` a row.

    A sample longer than `pack_tokens` has a row of its own.
    """
    rows: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if lengths[index] > room:
            rows.append([])
            room = pack_tokens
        rows[-1].append(index)
        room -= lengths[index]
    return rows


def make_batch(samples: Sequence[Sample], current_version: int, device: torch.device | str = "cpu") -> Batch:
    """Lay `samples` end to end. Advantages and logprobs come out in float32."""
    tokens: list[int] = []
    positions: list[int] = []
    predictor: list[int] = []
    behavior: list[float] = []
    advantage: list[float] = []
    segment: list[int] = []
    current: list[bool] = []
    num_segments = 0
    for sample in samples:
        start = len(tokens)
        tokens += sample.token_ids
        positions += range(len(sample.token_ids))
        trained = [i for i, trains in enumerate(sample.loss_mask) if trains]
        assert not trained or trained[0] > 0, "the first token of a sample has no predictor"
        predictor += [start + i - 1 for i in trained]
        behavior += [sample.behavior_logprobs[i] for i in trained]
        advantage += [sample.advantages[i] for i in trained]
        segment += [num_segments + sample.segment_ids[i] for i in trained]
        current += [sample.min_version == sample.max_version == current_version] * len(trained)
        num_segments += 1 + max(sample.segment_ids)
    token_ids_N = torch.tensor(tokens, device=device)
    predictor_T = torch.tensor(predictor, device=device)
    return Batch(
        token_ids_N=token_ids_N,
        position_ids_N=torch.tensor(positions, device=device),
        lengths=tuple(len(sample.token_ids) for sample in samples),
        predictor_T=predictor_T,
        target_T=token_ids_N[predictor_T + 1],
        behavior_logprob_T=torch.tensor(behavior, device=device),
        advantage_T=torch.tensor(advantage, device=device),
        segment_T=torch.tensor(segment, device=device),
        current_T=torch.tensor(current, device=device),
        num_segments=num_segments,
        episode_ids=tuple(sample.episode_id for sample in samples),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a packed row stand in a padded [B, L] rectangle."""

    source_BL: torch.Tensor  # place in the row; padding points at the sample's last token
    is_token_BL: torch.Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> "Layout":
        length_B = torch.tensor(lengths, device=device)
        start_B = length_B.cumsum(0) - length_B
        offset_L = torch.arange(max(lengths), device=device)
        is_token_BL = offset_L < length_B[:, None]
        source_BL = start_B[:, None] + torch.minimum(offset_L, length_B[:, None] - 1)
        return cls(source_BL, is_token_BL)


def predicting_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """[T, hidden size]: the hidden states of a causal language model from which its head predicts the trained tokens.

    The model must have been loaded with attn_implementation=PACKED_ATTENTION.
    """
    decoded = model.get_decoder()(
        input_ids=batch.token_ids_N[None],
        position_ids=batch.position_ids_N[None],
        use_cache=False,
        layout=Layout.of(batch.lengths, batch.token_ids_N.device),
    )
    return decoded.last_hidden_state[0, batch.predictor_T]  # type: ignore[no-any-return]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sample of a packed row, for transformers' attention interface; any device.

    query is [1, heads, N, D], key and value [1, key heads, N, D]; returns [1, N, heads, D]. Only here are the samples
    laid out as a rectangle: everything else in the model works on the packed row. Padding stands at the end, where
    causal attention does not look.
    """
    assert query.shape[0] == 1 and layout is not None, "packed_attention takes one packed row and its layout"
    query_BHLD, key_BHLD, value_BHLD = (
        x[0].transpose(0, 1)[layout.source_BL].transpose(1, 2) for x in (query, key, value)
    )
    grouped = query_BHLD.shape[1] != key_BHLD.shape[1]
    out_BHLD = scaled_dot_product_attention(
        query_BHLD, key_BHLD, value_BHLD, is_causal=True, scale=scaling, enable_gqa=grouped
    )
    return out_BHLD.transpose(1, 2)[layout.is_token_BL][None], None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, lambda *_, **__: None)
