"""Values of the travelling types, built from plain lists."""

from collections.abc import Sequence

import numpy as np

from spiral.types import Completion, EndReason, Episode, EpisodeHeader, Match, TrainingSample, Turn, TurnHeader


def completion(
    token_ids: Sequence[int] = (3,),
    logprobs: Sequence[float] | None = None,
    *,
    version: int = 0,
    max_version: int | None = None,
    finish_reason: str = "stop",
) -> Completion:
    """Without `logprobs`, each is -0.5; without `max_version`, `version` sampled all tokens."""
    return Completion(
        token_ids=np.array(token_ids, np.int32),
        logprobs=np.array([-0.5] * len(token_ids) if logprobs is None else logprobs, np.float32),
        finish_reason=finish_reason,
        min_version=version,
        max_version=version if max_version is None else max_version,
    )


def sampled(
    role: int,
    prompt_ids: Sequence[int] = (1, 2),
    token_ids: Sequence[int] = (3,),
    logprobs: Sequence[float] | None = None,
    *,
    version: int = 0,
    max_version: int | None = None,
    observation: str = "o",
    text: str = "t",
    action: str | None = "a",
    legal: bool = True,
) -> Turn:
    """A turn of a model."""
    return Turn(
        role=role,
        observation=observation,
        prompt_ids=np.array(prompt_ids, np.int32),
        completion=completion(token_ids, logprobs, version=version, max_version=max_version),
        text=text,
        action=action,
        legal=legal,
        error=None if legal else "no",
    )


def scripted(
    role: int, *, observation: str = "o", text: str = "t", action: str | None = "a", error: str | None = None
) -> Turn:
    """A turn of a scripted player. It is illegal if there is an `error`."""
    return Turn(
        role=role,
        observation=observation,
        prompt_ids=np.array((), np.int32),
        completion=None,
        text=text,
        action=action,
        legal=error is None,
        error=error,
    )


def match(
    match_id: int = 0, game: str = "kuhn_poker", seed: int = 1, players: tuple[str, str] = ("policy", "policy")
) -> Match:
    """A match of the policy against itself, unless other `players` are given."""
    return Match(id=match_id, game=game, seed=seed, players=players)


def episode(
    match_id: int = 0,
    turns: Sequence[Turn] = (),
    returns: tuple[float, float] = (0.0, 0.0),
    *,
    game: str = "kuhn_poker",
    seed: int = 1,
    players: tuple[str, str] = ("policy", "policy"),
    end_reason: EndReason = "finished",
    forfeit_by: int | None = None,
    error: str | None = None,
) -> Episode:
    """An episode that took 0.25 s."""
    return Episode(
        match=match(match_id, game, seed, players),
        turns=tuple(turns),
        returns=returns,
        end_reason=end_reason,
        forfeit_by=forfeit_by,
        duration_s=0.25,
        error=error,
    )


def turn_header(
    role: int, *, legal: bool = True, prompt_hash: int = 0, num_tokens: int = 1, min_version: int = 0
) -> TurnHeader:
    """The header of a turn."""
    return TurnHeader(role=role, legal=legal, prompt_hash=prompt_hash, num_tokens=num_tokens, min_version=min_version)


def header(
    match_id: int = 0,
    turns: Sequence[TurnHeader] = (),
    returns: tuple[float, float] = (0.0, 0.0),
    *,
    game: str = "kuhn_poker",
    seed: int = 1,
    players: tuple[str, str] = ("policy", "policy"),
    end_reason: EndReason = "finished",
    forfeit_by: int | None = None,
    error: str | None = None,
) -> EpisodeHeader:
    """The header of an episode that took 0.25 s."""
    return EpisodeHeader(
        match=match(match_id, game, seed, players),
        returns=returns,
        end_reason=end_reason,
        turns=tuple(turns),
        forfeit_by=forfeit_by,
        duration_s=0.25,
        error=error,
    )


def sample(
    token_ids: Sequence[int],
    segment_ids: Sequence[int],
    *,
    logprobs: Sequence[float] | None = None,
    advantages: Sequence[float] | None = None,
    match_id: int = 0,
    role: int = 0,
    version: int = 0,
) -> TrainingSample:
    """A sample whose tokens with a segment (not -1) are trained on, by default with logprob -0.5 and advantage 0.5."""
    trained = np.array(segment_ids) >= 0
    return TrainingSample(
        token_ids=np.array(token_ids, np.int32),
        loss_mask=trained,
        behavior_logprobs=np.array(-0.5 * trained if logprobs is None else logprobs, np.float32),
        segment_ids=np.array(segment_ids, np.int32),
        advantages=np.array(0.5 * trained if advantages is None else advantages, np.float32),
        episode_id=match_id,
        game="g",
        role=role,
        min_version=version,
        max_version=version,
    )
