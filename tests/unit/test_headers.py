"""What the driver and an advantage estimator see of an episode."""

import numpy as np

from spiral.headers import episode_header, prompt_hash
from spiral.types import EpisodeHeader, Match, TurnHeader
from tests.builders import episode, sampled, scripted

PROMPT_HASH = 0x9E3D6A5F74569CD6  # of the tokens 1, 2, 3


def test_a_header_is_an_episode_without_tokens_and_texts() -> None:
    turns = (
        sampled(0, [1, 2, 3], [7, 8], version=4, max_version=6),
        scripted(1, error="no"),
        sampled(0, [1, 2, 3], [], version=5, legal=False),
    )
    played = episode(9, turns, (-1.0, 1.0), players=("policy", "random"), end_reason="forfeit", forfeit_by=0, error="x")
    assert episode_header(played) == EpisodeHeader(
        match=Match(id=9, game="kuhn_poker", seed=1, players=("policy", "random")),
        returns=(-1.0, 1.0),
        end_reason="forfeit",
        turns=(
            TurnHeader(role=0, legal=True, prompt_hash=PROMPT_HASH, num_tokens=2, min_version=4),
            TurnHeader(role=1, legal=False, prompt_hash=0, num_tokens=0, min_version=-1),
            TurnHeader(role=0, legal=False, prompt_hash=PROMPT_HASH, num_tokens=0, min_version=5),
        ),
        forfeit_by=0,
        duration_s=0.25,
        error="x",
    )


def test_a_prompt_hash_is_a_fixed_function_of_the_tokens() -> None:
    assert prompt_hash((1, 2, 3)) == prompt_hash(np.array([1, 2, 3], dtype=np.int32)) == PROMPT_HASH
    assert prompt_hash((1, 2, 4)) != PROMPT_HASH
    assert prompt_hash(()) == 0
