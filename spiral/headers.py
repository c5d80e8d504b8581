"""Headers of episodes: all that the driver and an advantage estimator see of them."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spiral.types import Episode, EpisodeHeader, Turn, TurnHeader

if TYPE_CHECKING:
    from spiral.types import Tokens


def episode_header(episode: Episode) -> EpisodeHeader:
    """`episode` without its tokens and texts."""
    return EpisodeHeader(
        match=episode.match,
        returns=episode.returns,
        end_reason=episode.end_reason,
        turns=tuple(_turn_header(turn) for turn in episode.turns),
        forfeit_by=episode.forfeit_by,
        duration_s=episode.duration_s,
        error=episode.error,
    )


def prompt_hash(prompt_ids: "Tokens | Sequence[int]") -> int:
    """64 bits of BLAKE2b over the token ids as little-endian int32; 0 for an empty prompt.

    The same in every process and on every machine, which Python's `hash` is not.
    """
    if len(prompt_ids) == 0:
        return 0
    tokens = np.asarray(prompt_ids, dtype="<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(tokens, digest_size=8).digest(), "little")


def _turn_header(turn: Turn) -> TurnHeader:
    completion = turn.completion
    return TurnHeader(
        role=turn.role,
        legal=turn.legal,
        prompt_hash=prompt_hash(turn.prompt_ids),
        num_tokens=0 if completion is None else len(completion.token_ids),
        min_version=-1 if completion is None else completion.min_version,
        continuations=turn.continuations,
    )
