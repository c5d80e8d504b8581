"""Packing: samples laid end to end in one sequence of tokens, without padding.

Suffixes: _N packed tokens, _S segments (turns) in a batch, _T trained tokens (those the policy sampled).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from spiral.learn.kernels.attention import Layout
from spiral.types import TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A micro batch: samples laid end to end. All tensors are on one device.

    `predictor_T` holds the positions whose hidden states predict the trained tokens `target_T`. The trained tokens of a
    segment are adjacent, and `segment_T` numbers the segments of the batch from 0 to `num_segments` - 1. `current_T` is
    True for tokens that were sampled with the current policy version.
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


def plan_packs(lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
    """Group samples into packs of at most `pack_tokens` tokens: indices into `lengths`, longest samples first.

    Samples of similar length share a pack. A sample longer than `pack_tokens` is a pack of its own.
    """
    packs: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if lengths[index] > room:
            packs.append([])
            room = pack_tokens
        packs[-1].append(index)
        room -= lengths[index]
    return packs


def make_batch(samples: Sequence[TrainingSample], current_version: int, device: torch.device | str = "cpu") -> Batch:
    """The batch of `samples`, in their order; advantages and logprobs are float32.

    Tokens count as current if the whole sample was sampled with policy version `current_version`.
    """
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
