"""Training samples: the tokens of scored episodes, exactly as they were sampled.

A turn whose prompt extends the role's previous turn (prompt and completion) token for token continues that turn's
sample, so that the turns of a conversation share one forward pass. Any other turn starts a new sample.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiral.learn.kernels.sample_table import SampleTable, Spans
from spiral.types import POLICY, Completion, Episode, Match, Turn


class ScoredTurn(NamedTuple):
    """Turn `number` of `match`, with the advantage that it is trained with."""

    match: Match
    number: int
    turn: Turn
    completion: Completion
    advantage: float


def score_turns(
    episodes: Iterable[Episode],
    advantages: Iterable[Sequence[float]],
    *,
    gamma: float,
    format_penalty: float,
) -> list[ScoredTurn]:
    """The turns that the policy took, by episode and role; an opponent's tokens are never trained on.

    `advantages` holds one sequence per episode, with one number per turn. A turn is trained with its advantage times
    `gamma ** k`, where k counts the role's later turns, minus `format_penalty` if its action was illegal. Turns without
    a token are left out.
    """
    scored = []
    for episode, turn_advantages in zip(episodes, advantages, strict=True):
        numbered = list(zip(range(len(episode.turns)), episode.turns, turn_advantages, strict=True))
        for role, player in enumerate(episode.match.players):
            if player != POLICY:
                continue
            own = [entry for entry in numbered if entry[1].role == role]
            for num_later, (number, turn, advantage) in zip(reversed(range(len(own))), own, strict=True):
                completion = turn.completion
                assert completion is not None, "a turn of the policy has a completion"
                if len(completion.token_ids):
                    advantage = advantage * gamma**num_later - format_penalty * (not turn.legal)
                    scored.append(ScoredTurn(episode.match, number, turn, completion, advantage))
    return scored


def make_samples(turns: Sequence[ScoredTurn]) -> SampleTable:
    """The samples of the turns that `score_turns` returned; the segments of the table are these turns, in order."""
    firsts: list[int] = []  # the turns that begin a sample
    parts: list[NDArray[np.int32]] = []  # of each turn the new tokens of its prompt, and its completion
    for index, turn in enumerate(turns):
        num_known = _num_continued(turns[index - 1], turn) if index else 0
        if not num_known:
            firsts.append(index)
        parts += (turn.turn.prompt_ids[num_known:], turn.completion.token_ids)
    first_B = np.array(firsts)
    num_parts_S = np.fromiter(map(len, parts), np.int64, len(parts)).reshape(-1, 2)
    num_sampled_S = num_parts_S[:, 1]
    begins_S = num_parts_S.cumsum().reshape(-1, 2)[:, 0]  # where the completions begin
    begun = [turns[first] for first in firsts]
    return SampleTable(
        token_ids_N=np.concatenate(parts),
        trained_T=Spans(start=begins_S, count=num_sampled_S).indices(),
        segment_T=np.repeat(np.arange(len(turns)), num_sampled_S),
        behavior_logprob_T=np.concatenate([turn.completion.logprobs for turn in turns]),
        advantage_S=np.array([turn.advantage for turn in turns], np.float32),
        tokens=Spans.adjacent(np.add.reduceat(num_parts_S.sum(1), first_B)),
        trained=Spans.adjacent(np.add.reduceat(num_sampled_S, first_B)),
        segments=Spans.adjacent(np.diff(first_B, append=len(turns))),
        episode_id_B=np.array([turn.match.id for turn in begun]),
        role_B=np.array([turn.turn.role for turn in begun]),
        min_version_B=np.minimum.reduceat([turn.completion.min_version for turn in turns], first_B),
        max_version_B=np.maximum.reduceat([turn.completion.max_version for turn in turns], first_B),
        game_B=[turn.match.game for turn in begun],
    )


def _num_continued(before: ScoredTurn, turn: ScoredTurn) -> int:
    """How many tokens `before` has, if `turn` is of the same role and its prompt begins with all of them; else 0."""
    if before.match.id != turn.match.id or before.turn.role != turn.turn.role:
        return 0
    prompt, said, longer = before.turn.prompt_ids, before.completion.token_ids, turn.turn.prompt_ids
    num_prompt, num_known = len(prompt), len(prompt) + len(said)
    extends = (
        len(longer) >= num_known
        and longer[num_prompt:num_known].tobytes() == said.tobytes()
        and longer[:num_prompt].tobytes() == prompt.tobytes()
    )
    return num_known if extends else 0
