"""How varied play is: openings, and what is written in answer to one and the same view."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from spiral.types import POLICY, Episode

NGRAM = 4
"""Tokens of an n-gram. A shorter completion is one n-gram as a whole."""
MOST_ANSWERS = 16
"""Completions that count of one view: the share of distinct n-grams falls with their number."""
MOST_VIEWS = 64
"""Views that count of one game, the ones met first."""


def diversity_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """`distinct_ngrams`, `distinct_openings` and `top_opening_rate` of each game, between 0 and 1.

    An opening is the first accepted action of each role. `distinct_ngrams` is the share of n-grams that are distinct
    (distinct-n of Li et al., arXiv 1510.03055) among the policy's completions of the same prompt, averaged over the
    prompts with several completions; a game without such a prompt has none.
    """
    metrics: dict[str, float] = {}
    for game in sorted({episode.match.game for episode in episodes}):
        played = [episode for episode in episodes if episode.match.game == game]
        openings = Counter(_opening(episode) for episode in played)
        metrics[f"game/{game}/distinct_openings"] = len(openings) / len(played)
        metrics[f"game/{game}/top_opening_rate"] = openings.most_common(1)[0][1] / len(played)
        shares = [_distinct_share(answers) for answers in _answers_by_view(played)]
        if shares:
            metrics[f"game/{game}/distinct_ngrams"] = sum(shares) / len(shares)
    return metrics


def _opening(episode: Episode) -> tuple[str | None, str | None]:
    first: dict[int, str | None] = {}
    for turn in episode.turns:
        if turn.legal and turn.role not in first:
            first[turn.role] = turn.action
            if len(first) == 2:
                break
    return first.get(0), first.get(1)


def _answers_by_view(episodes: Iterable[Episode]) -> list[list[NDArray[np.int32]]]:
    """The completions of each view that has several, as token ids."""
    answers: dict[bytes, list[NDArray[np.int32]]] = defaultdict(list)
    for episode in episodes:
        for turn in episode.turns:
            if turn.completion is None or episode.match.players[turn.role] != POLICY:
                continue
            answers[turn.prompt_ids.tobytes()].append(turn.completion.token_ids)
    several = [known[:MOST_ANSWERS] for known in answers.values() if len(known) > 1]
    return several[:MOST_VIEWS]


def _distinct_share(answers: Sequence[NDArray[np.int32]]) -> float:
    """The share of the n-grams of `answers` that are distinct."""
    short = [answer.tobytes() for answer in answers if len(answer) < NGRAM]
    windows = [np.lib.stride_tricks.sliding_window_view(a, NGRAM) for a in answers if len(a) >= NGRAM]
    num_distinct, total = len(set(short)), len(short)
    if windows:
        grams = np.ascontiguousarray(np.concatenate(windows))
        num_distinct += len(np.unique(grams.view(f"V{grams.itemsize * NGRAM}")))
        total += len(grams)
    return num_distinct / total
