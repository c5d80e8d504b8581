"""Training samples: the tokens of scored episodes, exactly as they were sampled.

A turn whose prompt extends the role's previous turn (prompt and completion) token for token continues that turn's
sample, so that the turns of a conversation share one forward pass. Any other turn starts a new sample.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from spiral.types import POLICY, Completion, Episode, TrainingSample, Turn


def make_samples(
    episodes: Iterable[Episode],
    advantages: Iterable[Sequence[float]],
    *,
    gamma: float,
    format_penalty: float,
) -> list[TrainingSample]:
    """The samples of all turns that the policy took; an opponent's tokens are never trained on.

    `advantages` holds one sequence per episode, with one number per turn. A turn is trained with its advantage times
    `gamma ** k`, where k counts the role's later turns, minus `format_penalty` if its action was illegal.
    """
    samples = []
    for episode, turn_advantages in zip(episodes, advantages, strict=True):
        for role, player in enumerate(episode.match.players):
            if player != POLICY:
                continue
            own = [pair for pair in zip(episode.turns, turn_advantages, strict=True) if pair[0].role == role]
            scored = []
            for num_later, (turn, advantage) in zip(reversed(range(len(own))), own, strict=True):
                scored.append((turn, advantage * gamma**num_later - format_penalty * (not turn.legal)))
            samples += [_sample(episode, role, group) for group in _group_turns(scored)]
    return samples


def cut_evenly(indices: Sequence[int], most: int) -> list[list[int]]:
    """Cut `indices` into the fewest parts of at most `most`, in order, whose sizes differ by at most 1."""
    num_parts = math.ceil(len(indices) / most)
    bounds = [part * len(indices) // num_parts for part in range(num_parts + 1)] if indices else []
    return [list(indices[start:end]) for start, end in pairwise(bounds)]


def _completion(turn: Turn) -> Completion:
    assert turn.completion is not None, "a turn of the policy has a completion"
    return turn.completion


def _group_turns(scored: list[tuple[Turn, float]]) -> list[list[tuple[Turn, float]]]:
    """Cut a role's turns into groups within which each prompt extends the previous turn."""
    groups: list[list[tuple[Turn, float]]] = []
    tokens: tuple[int, ...] = ()
    for turn, advantage in scored:
        if not groups or turn.prompt_ids[: len(tokens)] != tokens:
            groups.append([])
        groups[-1].append((turn, advantage))
        tokens = turn.prompt_ids + _completion(turn).token_ids
    return groups


def _sample(episode: Episode, role: int, group: list[tuple[Turn, float]]) -> TrainingSample:
    """The sample of a group of turns; its tokens are those of the last turn's prompt and completion."""
    tokens: list[int] = []
    mask: list[bool] = []
    logprobs: list[float] = []
    segments: list[int] = []
    advantages: list[float] = []
    for segment, (turn, advantage) in enumerate(group):
        completion = _completion(turn)
        num_new, num_sampled = len(turn.prompt_ids) - len(tokens), len(completion.token_ids)
        tokens += turn.prompt_ids[len(tokens) :] + completion.token_ids
        mask += [False] * num_new + [True] * num_sampled
        logprobs += [0.0] * num_new + list(completion.logprobs)
        segments += [-1] * num_new + [segment] * num_sampled
        advantages += [0.0] * num_new + [advantage] * num_sampled
    return TrainingSample(
        token_ids=tuple(tokens),
        loss_mask=tuple(mask),
        behavior_logprobs=tuple(logprobs),
        segment_ids=tuple(segments),
        advantages=tuple(advantages),
        episode_id=episode.match.id,
        game=episode.match.game,
        role=role,
        min_version=min(_completion(turn).min_version for turn, _ in group),
        max_version=max(_completion(turn).max_version for turn, _ in group),
    )
