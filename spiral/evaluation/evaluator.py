"""Measures a policy: exact NashConv where a game can be enumerated, and paired matches against each opponent."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from spiral.config import Config
from spiral.evaluation.arena import Score, paired_matches, paired_score
from spiral.evaluation.exploitability import Strength, exact_strength, language_model_policy, sampled_strength
from spiral.game.solve import DecisionPoint, exact_games
from spiral.types import POLICY, Episode, EpisodeHeader, Match


class PlayedMatches(Protocol):
    """Matches that were played. Their episodes stay where they were played, until some are asked for."""

    @property
    def headers(self) -> Sequence[EpisodeHeader]:
        """One for each match, in the order of the matches."""

    def episodes(self, match_ids: Sequence[int]) -> list[Episode]:
        """The whole episodes of a few matches."""


Play = Callable[[list[Match]], PlayedMatches]
"""Plays matches to their end. Their ids differ."""

ActionLogprobs = Callable[[str, Sequence[DecisionPoint]], list[tuple[float, ...]]]
"""The policy's log-probability of each legal action, at each decision point of a game."""

ActionCounts = Callable[[str, Sequence[DecisionPoint], int], list[tuple[int, ...]]]
"""How often the policy answers each legal action, and last none of them, in so many completions at each point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The strength of one policy.

    `metrics` has the keys `eval/...` of metrics.jsonl: `eval/<game>/nash_conv`, `illegal_mass` and, per role,
    `gain_role0` (see Strength); for a policy that was sampled also `nash_conv_low` and `nash_conv_high`; and
    `eval/<game>/vs_<opponent>/score`, `ci95`, `pairs`, `void`, `illegal_rate` and `forfeit_rate`. Where every pair was
    void there are only `pairs` (0) and `void`, the number of void matches; one pair gives no `ci95`. `episodes` holds
    one match per game and opponent. `duration_s` is the time the measurement took, without the start of the engine.
    `warnings` has one line per game and opponent with void matches. `exact` holds the best responses of each game with
    a NashConv.
    """

    metrics: dict[str, float]
    episodes: tuple[Episode, ...]
    duration_s: float
    warnings: tuple[str, ...] = ()
    exact: Mapping[str, Strength] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether there is a NashConv or a score at all."""
        return any(key.endswith(("/nash_conv", "/score")) for key in self.metrics)

    def games(self) -> list[str]:
        """The games that were measured, in order."""
        keys = [key.split("/") for key in self.metrics if key != "eval/illegal_rate"]
        found = ["/".join(parts[1 : -2 if parts[-2].startswith("vs_") else -1]) for parts in keys]
        return list(dict.fromkeys(found))

    def opponents(self, game: str) -> list[str]:
        """The opponents with a score in `game`, in order."""
        start, end = f"eval/{game}/vs_", "/score"
        return [key[len(start) : -len(end)] for key in self.metrics if key.startswith(start) and key.endswith(end)]

    def nash_conv(self, game: str) -> float | None:
        """Exact NashConv in the game's payoff units, or None where it was not computed."""
        return self.metrics.get(f"eval/{game}/nash_conv")

    def score(self, game: str, opponent: str) -> Score:
        """Mean return against an opponent. Raises KeyError for a pairing that was not played, or always void."""
        key = f"eval/{game}/vs_{opponent}"
        return Score(self.metrics[f"{key}/score"], self.metrics.get(f"{key}/ci95"), int(self.metrics[f"{key}/pairs"]))


def evaluate_policy(
    config: Config, play: Play, action_logprobs: ActionLogprobs, action_counts: ActionCounts | None = None
) -> Evaluation:
    """Measure the policy behind the other arguments in config.games against config.eval.opponents.

    `action_counts` is needed only with config.eval.nash_conv_samples.
    """
    start_s = time.monotonic()
    metrics: dict[str, float] = {}
    exact: dict[str, Strength] = {}
    for game, points in exact_games(config).items():
        if config.eval.nash_conv_samples and action_counts is not None:
            counts = action_counts(game, points, config.eval.nash_conv_samples)
            exact[game] = sampled_strength(game, points, counts, config.seed)
        else:
            table, illegal_mass = language_model_policy(game, points, action_logprobs(game, points))
            exact[game] = exact_strength(game, points, table, illegal_mass)
        metrics |= _strength_metrics(game, exact[game])

    pairings = [(game.id, opponent) for game in config.games for opponent in config.eval.opponents]
    num_each = 2 * config.eval.pairs
    matches = [
        match
        for number, (game, opponent) in enumerate(pairings)
        for match in paired_matches(game, opponent, config.eval.pairs, config.seed, first_id=num_each * number)
    ]
    if not matches:
        return Evaluation(metrics=metrics, episodes=(), duration_s=time.monotonic() - start_s, exact=exact)
    played = play(matches)  # all at once: the engine is fastest when it is full
    headers, shown, warnings = played.headers, [], []
    for number, (game, opponent) in enumerate(pairings):
        pairing = headers[num_each * number : num_each * (number + 1)]
        metrics |= _pairing_metrics(game, opponent, pairing)
        sound = [header for header in pairing if header.end_reason != "void"]
        shown.append((sound or pairing)[0].match.id)
        if len(sound) < num_each:
            warnings.append(f"{game} against {opponent}: {void_text(pairing)}")
    if any(header.end_reason != "void" for header in headers):
        metrics["eval/illegal_rate"] = _illegal_rate(headers)
    return Evaluation(
        metrics=metrics,
        episodes=tuple(played.episodes(shown)),
        duration_s=time.monotonic() - start_s,
        warnings=tuple(warnings),
        exact=exact,
    )


def _strength_metrics(game: str, strength: Strength) -> dict[str, float]:
    measured = {"nash_conv": strength.nash_conv, "illegal_mass": strength.illegal_mass}
    measured |= {f"gain_role{role}": gain for role, gain in enumerate(strength.gains)}
    if strength.interval is not None:
        measured |= dict(zip(("nash_conv_low", "nash_conv_high"), strength.interval, strict=True))
    return {f"eval/{game}/{name}": value for name, value in measured.items()}


def void_text(episodes: Sequence[EpisodeHeader]) -> str:
    """How many of the matches were void, and why the first of them was, in one line."""
    void = [episode for episode in episodes if episode.end_reason == "void"]
    reason = " ".join((void[0].error or "no reason given").split())
    return f"{len(void)} of {len(episodes)} matches were void, the first because: {reason}"


def _pairing_metrics(game: str, opponent: str, episodes: Sequence[EpisodeHeader]) -> dict[str, float]:
    measured: dict[str, float] = {"pairs": 0, "void": sum(e.end_reason == "void" for e in episodes)}
    score = paired_score(episodes)
    if score is not None:
        forfeits = sum(e.forfeit_by is not None and e.match.players[e.forfeit_by] == POLICY for e in episodes)
        measured |= {"score": score.mean, "pairs": score.num_pairs}
        measured |= {"illegal_rate": _illegal_rate(episodes), "forfeit_rate": forfeits / len(episodes)}
        if score.ci95 is not None:
            measured["ci95"] = score.ci95
    return {f"eval/{game}/vs_{opponent}/{name}": value for name, value in measured.items()}


def _illegal_rate(episodes: Sequence[EpisodeHeader]) -> float:
    """The share of the policy's turns whose action was illegal."""
    turns = [turn for episode in episodes for turn in episode.turns if turn.min_version >= 0]
    return sum(not turn.legal for turn in turns) / max(1, len(turns))
