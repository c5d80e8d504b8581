"""The `game/<id>/...` metrics of a step that the headers of its episodes show."""

from collections import defaultdict
from collections.abc import Sequence

from spiral.summaries import mean_with_ci95, quantiles
from spiral.types import POLICY, EpisodeHeader


def game_metrics(game: str, headers: Sequence[EpisodeHeader]) -> dict[str, float]:
    """The metrics of `headers`, the episodes of `game` in one step, of which there is at least one.

    `return_finished` and `return_forfeit` split a role's return by how the match ended: to win by a forfeit is not to
    outplay the opponent. (At the turn cap both returns are 0.)
    """
    metrics: dict[str, float] = {}
    by_reason: dict[str, list[EpisodeHeader]] = {"finished": [], "forfeit": [], "turn_cap": []}
    for header in headers:
        by_reason[header.end_reason].append(header)
    for role in (0, 1):
        key = f"game/{game}/role{role}/return"
        if returns := _returns(headers, role):
            metrics |= mean_with_ci95(key, returns)
        for reason in ("finished", "forfeit"):
            if returns := _returns(by_reason[reason], role):
                metrics[f"{key}_{reason}"] = sum(returns) / len(returns)
    for reason, ended in by_reason.items():
        metrics[f"game/{game}/{reason}_rate"] = len(ended) / len(headers)
    metrics[f"game/{game}/draw_rate"] = sum(header.returns[0] == 0 for header in headers) / len(headers)
    turns = [turn for header in headers for turn in header.turns if header.match.players[turn.role] == POLICY]
    if turns:
        metrics[f"game/{game}/illegal_rate"] = sum(not turn.legal for turn in turns) / len(turns)
    metrics |= quantiles(f"game/{game}/turns", [len(header.turns) for header in headers])
    metrics |= quantiles(f"game/{game}/turn_tokens", [turn.num_tokens for turn in turns if turn.min_version >= 0])
    return metrics | _by_opponent(game, headers)


def _returns(headers: Sequence[EpisodeHeader], role: int) -> list[float]:
    """The returns of `role` in the matches in which the policy had it."""
    return [header.returns[role] for header in headers if header.match.players[role] == POLICY]


def _by_opponent(game: str, headers: Sequence[EpisodeHeader]) -> dict[str, float]:
    """`game/<id>/vs_<player>/...`: the policy's return against each other player. Its past versions count as one."""
    returns: dict[str, list[float]] = defaultdict(list)
    for header in headers:
        for role, player in enumerate(header.match.players):
            if player != POLICY and header.match.players[1 - role] == POLICY:
                name = "past" if player.startswith(f"{POLICY}@") else player
                returns[name].append(header.returns[1 - role])
    metrics: dict[str, float] = {}
    for name, values in sorted(returns.items()):
        metrics |= mean_with_ci95(f"game/{game}/vs_{name}/return", values)
        metrics[f"game/{game}/vs_{name}/episodes"] = len(values)
    return metrics
