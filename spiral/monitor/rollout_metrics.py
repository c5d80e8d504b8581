"""The `rollout/...` and `game/...` metrics of a step."""

from collections.abc import Sequence

from spiral.monitor.game_metrics import game_metrics
from spiral.types import EpisodeHeader


def rollout_metrics(headers: Sequence[EpisodeHeader], version: int) -> dict[str, float]:
    """Metrics of the episodes of a step. `version` is the policy version that the learner holds."""
    turns = [turn for header in headers for turn in header.turns]
    sampled = [turn for turn in turns if turn.min_version >= 0]  # by the policy
    capped = [header for header in headers if header.end_reason == "turn_cap"]
    metrics = {
        "rollout/episodes": len(headers),
        "rollout/completions": len(sampled),
        "rollout/turns_mean": len(turns) / len(headers),
        "rollout/completion_tokens_mean": sum(turn.num_tokens for turn in sampled) / len(sampled),
        "rollout/illegal_rate": sum(not turn.legal for turn in sampled) / len(sampled),
        "rollout/forfeit_rate": sum(header.forfeit_by is not None for header in headers) / len(headers),
        "rollout/turn_cap_rate": len(capped) / len(headers),
        # A draw for want of room in the model's context, and not at the game's own max_turns, says so.
        "rollout/context_cap": sum(header.error is not None for header in capped),
        "rollout/staleness_mean": sum(version - turn.min_version for turn in sampled) / len(sampled),
    }
    for game in sorted({header.match.game for header in headers}):
        metrics |= game_metrics(game, [header for header in headers if header.match.game == game])
    return metrics
