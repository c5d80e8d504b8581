"""From scored episodes to samples, which hold exactly the tokens that were sampled.

A turn whose prompt extends the turn before it token for token (prompt, then completion) continues its sample: that is
how the turns of a conversation share one pass of the model. Any other turn begins a sample of its own.
"""

from collections.abc import Iterable

from spiral.types import POLICY, Completion, Episode, Sample, Turn


def make_samples(
    episodes: Iterable[Episode],
    advantages: dict[int, tuple[float, float]],
    *,
    gamma: float,
    format_penalty: float,
) -> list[Sample]:
    """The samples of all turns that the policy itself took; an opponent's tokens are never trained on.

    A turn's advantage is its role's advantage in the episode times `gamma ** k`, where k counts the role's turns that
    follow, less `format_penalty` if its action was illegal.
    """
    samples = []
    for episode in episodes:
        for role, label in enumerate(episode.match.players):
            if label != POLICY:
                continue
            turns = [turn for turn in episode.turns if turn.role == role]
            scored = []
            for turns_to_come, turn in zip(reversed(range(len(turns))), turns, strict=True):
                advantage = advantages[episode.match.id][role] * gamma**turns_to_come
                scored.append((turn, advantage - format_penalty * (not turn.legal)))
            samples += [_sample(episode, role, run) for run in _runs(scored)]
    return samples


def _completion(turn: Turn) -> Completion:
    assert turn.completion is not None, "a turn of the policy has a completion"
    return turn.completion


def _runs(scored: list[tuple[Turn, float]]) -> list[list[tuple[Turn, float]]]:
    """Cut the turns of a role wherever a prompt does not extend the turn before it."""
    runs: list[list[tuple[Turn, float]]] = []
    tokens: tuple[int, ...] = ()
    for turn, advantage in scored:
        if not runs or turn.prompt_ids[: len(tokens)] != tokens:
            runs.append([])
        runs[-1].append((turn, advantage))
        tokens = turn.prompt_ids + _completion(turn).token_ids
    return runs


def _sample(episode: Episode, role: int, run: list[tuple[Turn, float]]) -> Sample:
    tokens: list[int] = []
    mask: list[bool] = []
    logprobs: list[float] = []
    segments: list[int] = []
    advantages: list[float] = []
    for segment, (turn, advantage) in enumerate(run):
        completion = _completion(turn)
        read, written = len(turn.prompt_ids) - len(tokens), len(completion.token_ids)
        tokens += turn.prompt_ids[len(tokens) :] + completion.token_ids
        mask += [False] * read + [True] * written
        logprobs += [0.0] * read + list(completion.logprobs)
        segments += [-1] * read + [segment] * written
        advantages += [0.0] * read + [advantage] * written
    return Sample(
        token_ids=tuple(tokens),
        loss_mask=tuple(mask),
        behavior_logprobs=tuple(logprobs),
        segment_ids=tuple(segments),
        advantages=tuple(advantages),
        episode_id=episode.match.id,
        game=episode.match.game,
        role=role,
        min_version=min(_completion(turn).min_version for turn, _ in run),
        max_version=max(_completion(turn).max_version for turn, _ in run),
    )
