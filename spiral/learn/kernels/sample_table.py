"""The samples of a step as a few flat arrays, because a step may hold 100,000 of them.

Suffixes: _N tokens of all samples, laid end to end; _T those of them that are trained on; _S segments (turns) of all
samples; _B samples. The tokens, trained tokens and segments of a sample are adjacent, and so are those of a segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from spiral.types import TrainingSample

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Span i of an array is `array[start[i] : start[i] + count[i]]`."""

    start: Ints
    count: Ints

    @classmethod
    def adjacent(cls, count: Ints) -> "Spans":
        """Spans of `count` entries each, which follow one another from 0."""
        return cls(start=np.cumsum(count) - count, count=count)

    def of(self, chosen: Ints) -> "Spans":
        """The spans with indices `chosen`."""
        return Spans(start=self.start[chosen], count=self.count[chosen])

    def indices(self) -> Ints:
        """The indices of all entries, span after span."""
        where: Ints = np.arange(self.count.sum())
        where += np.repeat(self.start - (np.cumsum(self.count) - self.count), self.count)
        return where

    def pieces(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """Views of the spans of `array`."""
        ends = (self.start + self.count).tolist()
        return [array[start:end] for start, end in zip(self.start.tolist(), ends, strict=True)]

    def slice(self, index: int) -> slice:
        """Span `index`."""
        return slice(int(self.start[index]), int(self.start[index] + self.count[index]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTable(Sequence[TrainingSample]):
    """The samples of a step; `table[i]` is a TrainingSample.

    `trained_T` holds the positions in `token_ids_N` of the tokens that are trained on, `segment_T` their segments. The
    spans say which tokens, trained tokens and segments a sample has.
    """

    token_ids_N: NDArray[np.int32]
    trained_T: Ints
    segment_T: Ints
    behavior_logprob_T: NDArray[np.float32]
    advantage_S: NDArray[np.float32]
    tokens: Spans
    trained: Spans
    segments: Spans
    episode_id_B: Ints
    role_B: Ints
    min_version_B: Ints
    max_version_B: Ints
    game_B: Sequence[str]

    @classmethod
    def of(cls, samples: Sequence[TrainingSample]) -> "SampleTable":
        """The table of `samples`. All trained tokens of a segment must have the same advantage."""
        mask_N = np.concatenate([sample.loss_mask for sample in samples])
        trained_T = np.flatnonzero(mask_N)
        segments = Spans.adjacent(np.array([1 + sample.segment_ids.max() for sample in samples]))
        trained = Spans.adjacent(np.array([np.count_nonzero(sample.loss_mask) for sample in samples]))
        segment_N = np.concatenate([sample.segment_ids for sample in samples])
        segment_T = segment_N[trained_T] + np.repeat(segments.start, trained.count)
        advantage_S = np.zeros(int(segments.count.sum()), np.float32)
        advantage_S[segment_T] = np.concatenate([sample.advantages for sample in samples])[trained_T]
        return cls(
            token_ids_N=np.concatenate([sample.token_ids for sample in samples]),
            trained_T=trained_T,
            segment_T=segment_T,
            behavior_logprob_T=np.concatenate([sample.behavior_logprobs for sample in samples])[trained_T],
            advantage_S=advantage_S,
            tokens=Spans.adjacent(np.array([len(sample.token_ids) for sample in samples])),
            trained=trained,
            segments=segments,
            episode_id_B=np.array([sample.episode_id for sample in samples]),
            role_B=np.array([sample.role for sample in samples]),
            min_version_B=np.array([sample.min_version for sample in samples]),
            max_version_B=np.array([sample.max_version for sample in samples]),
            game_B=[sample.game for sample in samples],
        )

    def __len__(self) -> int:
        return len(self.game_B)

    def distinct(self, samples: Ints) -> tuple[Ints, Ints]:
        """The sequences of tokens among `samples`: the first sample with each, and for each sample its number."""
        numbers: dict[bytes, int] = {}
        pieces = self.tokens.of(samples).pieces(self.token_ids_N)
        number_B = np.array([numbers.setdefault(piece.tobytes(), len(numbers)) for piece in pieces])
        return samples[np.unique(number_B, return_index=True)[1]], number_B

    @overload
    def __getitem__(self, index: int) -> TrainingSample: ...

    @overload
    def __getitem__(self, index: slice) -> list[TrainingSample]: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        tokens, trained = self.tokens.slice(index), self.trained.slice(index)
        where = self.trained_T[trained] - tokens.start
        segment = self.segment_T[trained]
        length = tokens.stop - tokens.start

        def spread(values: NDArray[Any], elsewhere: float) -> NDArray[Any]:
            """One entry per token: `values` where it is trained on."""
            array = np.full(length, elsewhere, values.dtype)
            array[where] = values
            return array

        return TrainingSample(
            token_ids=self.token_ids_N[tokens],
            loss_mask=spread(np.ones(len(where), np.bool_), False),
            behavior_logprobs=spread(self.behavior_logprob_T[trained], 0.0),
            segment_ids=spread((segment - self.segments.start[index]).astype(np.int32), -1),
            advantages=spread(self.advantage_S[segment], 0.0),
            episode_id=int(self.episode_id_B[index]),
            game=self.game_B[index],
            role=int(self.role_B[index]),
            min_version=int(self.min_version_B[index]),
            max_version=int(self.max_version_B[index]),
        )
