"""Causal attention within each sample of a packed batch, for transformers' attention interface.

Suffixes: _N packed tokens, _B samples, _L tokens of the longest sample, _H heads, _D head dimension.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from spiral.config import UserError

PACKED_ATTENTION = "spiral_packed"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the samples of a packed batch begin, and where its tokens are in a padded [B, L] rectangle."""

    start_B: torch.Tensor  # int32, [B + 1]: the last entry is N
    longest: int
    source_BL: torch.Tensor  # index into the packed tokens; padding points at the sample's last token
    is_token_BL: torch.Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> "Layout":
        length_B = torch.tensor(lengths, device=device)
        start_B = torch.nn.functional.pad(length_B.cumsum(0), (1, 0))
        offset_L = torch.arange(max(lengths), device=device)
        source_BL = start_B[:-1, None] + torch.minimum(offset_L, length_B[:, None] - 1)
        return cls(start_B.int(), max(lengths), source_BL, offset_L < length_B[:, None])


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample of a packed batch, for transformers' attention interface.

    query is [1, heads, N, D], key and value [1, key heads, N, D]; returns [1, N, heads, D] and no attention weights.
    Raises UserError if the model needs another kind of attention.
    """
    assert query.shape[0] == 1 and layout is not None, "packed_attention takes one packed batch and its layout"
    _require_plain(layout.longest, more)
    query_NHD, key_NHD, value_NHD = (x[0].transpose(0, 1) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    is_varlen = query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16)
    attend = _attend_varlen if is_varlen else _attend_rectangle
    return attend(query_NHD, key_NHD, value_NHD, layout, scaling, grouped)[None], None


def _require_plain(longest: int, more: dict[str, Any]) -> None:
    """Raise UserError for options that this attention does not implement, rather than ignore them."""
    window = more.get("sliding_window")
    for name in ("softcap", "s_aux"):
        if more.get(name) is not None:
            raise UserError(f"the learner cannot train this model: its attention uses {name}")
    if window is not None and longest > window:
        raise UserError(f"a sample has {longest} tokens, more than the model's sliding window of {window}")


def _attend_varlen(
    query_NHD: torch.Tensor,
    key_NHD: torch.Tensor,
    value_NHD: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    grouped: bool,
) -> torch.Tensor:
    """[N, heads, D], with PyTorch's FlashAttention kernels for sequences of varying length (CUDA, half precision).

    PyTorch 2.11 has no `enable_gqa` for it: there each key head is repeated for the query heads that share it.
    """
    from torch.nn.attention import varlen

    options: dict[str, Any] = {}
    if grouped and "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters:
        options["enable_gqa"] = True
    elif grouped:
        sharing = query_NHD.shape[1] // key_NHD.shape[1]
        key_NHD, value_NHD = (x_NHD.repeat_interleave(sharing, dim=1) for x_NHD in (key_NHD, value_NHD))
    start, longest = layout.start_B, layout.longest
    return varlen.varlen_attn(  # type: ignore[return-value]
        query_NHD,
        key_NHD,
        value_NHD,
        start,
        start,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        **options,
    )


def _attend_rectangle(
    query_NHD: torch.Tensor,
    key_NHD: torch.Tensor,
    value_NHD: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    grouped: bool,
) -> torch.Tensor:
    """[N, heads, D], on any device and in any floating-point type.

    Samples are padded to a rectangle for the attention only; the rest of the model works on packed tokens. Padding
    comes last, where causal attention never looks.
    """
    query_BHLD, key_BHLD, value_BHLD = (
        x_NHD[layout.source_BL].transpose(1, 2) for x_NHD in (query_NHD, key_NHD, value_NHD)
    )
    out_BHLD = scaled_dot_product_attention(
        query_BHLD, key_BHLD, value_BHLD, is_causal=True, scale=scaling, enable_gqa=grouped
    )
    return out_BHLD.transpose(1, 2)[layout.is_token_BL]


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, lambda *_, **__: None)
