"""From scored episodes to samples: one per turn of the policy, holding exactly the tokens that were sampled."""

from collections.abc import Iterable

from spiral.types import POLICY, Completion, Episode, Sample, Turn


def make_samples(
    episodes: Iterable[Episode],
    advantages: dict[int, tuple[float, float]],
    *,
    gamma: float,
    format_penalty: float,
) -> list[Sample]:
    """One sample per turn that the policy itself took; an opponent's tokens are never trained on.

    A turn's advantage is its role's advantage in the episode times `gamma ** k`, where k counts the role's turns that
    follow, less `format_penalty` if its action was illegal.
    """
    samples = []
    for episode in episodes:
        for role, label in enumerate(episode.match.players):
            if label != POLICY:
                continue
            turns = [turn for turn in episode.turns if turn.role == role]
            for turns_from_end, turn in enumerate(reversed(turns)):
                assert turn.completion is not None, "a turn of the policy has a completion"
                advantage = advantages[episode.match.id][role] * gamma**turns_from_end
                if not turn.legal:
                    advantage -= format_penalty
                samples.append(_sample(episode, turn, turn.completion, advantage))
    return samples


def _sample(episode: Episode, turn: Turn, completion: Completion, advantage: float) -> Sample:
    num_prompt, num_sampled = len(turn.prompt_ids), len(completion.token_ids)
    return Sample(
        token_ids=turn.prompt_ids + completion.token_ids,
        loss_mask=(False,) * num_prompt + (True,) * num_sampled,
        behavior_logprobs=(0.0,) * num_prompt + completion.logprobs,
        segment_ids=(-1,) * num_prompt + (0,) * num_sampled,
        advantages=(0.0,) * num_prompt + (advantage,) * num_sampled,
        episode_id=episode.match.id,
        game=episode.match.game,
        role=turn.role,
        min_version=completion.min_version,
        max_version=completion.max_version,
    )
