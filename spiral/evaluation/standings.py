"""What the results of a tournament say: scores, their parts, ratings and cycles."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from spiral.evaluation.arena import Score
from spiral.evaluation.tournament import Result
from spiral.ratings.bradley_terry import Rating, bradley_terry
from spiral.ratings.cycles import Cycles, find_cycles
from spiral.ratings.nash_averaging import nash_averages
from spiral.ratings.results import Pairing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How matches ended, as shares of those that were not void. The three scores add up to the mean return.

    `cap`: draws at the game's turn limit, or at the model's context. `lost_forfeit`: forfeits of the player itself.
    """

    finished: float
    forfeit: float
    cap: float
    lost_forfeit: float
    finished_score: float
    forfeit_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """The pairing of two players, from the view of `first`. Of a pairing without a sound pair `score` is None."""

    first: str
    second: str
    score: Score | None
    by_role: tuple[Score | None, Score | None]
    ends: Ends | None
    void: int
    first_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One player in the standings of a game. `nash` is (Nash average, low, high)."""

    player: str
    score: Score | None
    by_role: tuple[Score | None, Score | None]
    ends: Ends | None
    illegal_rate: float
    rating: Rating | None
    nash: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """One game of a tournament: the players, best first, their meetings, cycles, and remarks for whoever reads it."""

    game: str
    lines: tuple[Line, ...]
    meetings: tuple[Meeting, ...]
    cycles: Cycles
    notes: tuple[str, ...]


def standings(game: str, players: Sequence[str], results: Iterable[Result]) -> Standings:
    """The standings of `players` from the results of their matches in `game`; others' matches are left out."""
    results = [r for r in results if r.game == game and set(r.players) <= set(players)]
    meetings = [_meeting(first, second, results) for first, second in combinations(players, 2)]
    pairings = [
        Pairing(one, other, tuple(scores))
        for one, other in combinations(players, 2)
        if (scores := _pair_scores(one, [r for r in results if set(r.players) == {one, other}]))
    ]
    notes = [
        f"{m.first} against {m.second}: {m.void} matches were void, the first because: {m.first_error}"
        for m in meetings
        if m.void
    ]
    ratings: dict[str, Rating] = {}
    nash: dict[str, tuple[float, float, float]] = {}
    try:
        ratings = bradley_terry(pairings) if pairings else {}
        nash = nash_averages(pairings) if pairings else {}
    except ValueError as error:
        notes.append(f"not all ratings can be computed: {error}")
    lines = [_line(player, results, ratings.get(player), nash.get(player)) for player in players]
    lines.sort(key=lambda line: -(line.rating.value if line.rating else line.score.mean if line.score else -math.inf))
    return Standings(
        game=game, lines=tuple(lines), meetings=tuple(meetings), cycles=find_cycles(pairings), notes=tuple(notes)
    )


def _line(
    player: str, results: Sequence[Result], rating: Rating | None, nash: tuple[float, float, float] | None
) -> Line:
    own = [r for r in results if player in r.players]
    roles = [r.players.index(player) for r in own]
    turns = sum(r.turns[role] for r, role in zip(own, roles, strict=True))
    illegal = sum(r.illegal[role] for r, role in zip(own, roles, strict=True))
    return Line(
        player=player,
        score=_score(_pair_scores(player, own)),
        by_role=_by_role(player, own),
        ends=_ends(player, own),
        illegal_rate=illegal / max(1, turns),
        rating=rating,
        nash=nash,
    )


def _meeting(first: str, second: str, results: Sequence[Result]) -> Meeting:
    own = [r for r in results if set(r.players) == {first, second}]
    void = [r for r in own if r.end_reason == "void"]
    return Meeting(
        first=first,
        second=second,
        score=_score(_pair_scores(first, own)),
        by_role=_by_role(first, own),
        ends=_ends(first, own),
        void=len(void),
        first_error=" ".join((void[0].error or "no reason given").split()) if void else None,
    )


def _pair_scores(player: str, results: Sequence[Result]) -> list[float]:
    """The player's mean return over the two matches of each seed and opponent, where both were sound."""
    halves: dict[tuple[frozenset[str], int], dict[int, float]] = {}
    for result in results:
        if result.end_reason != "void":
            role = result.players.index(player)
            halves.setdefault((frozenset(result.players), result.seed), {})[role] = result.returns[role]
    return [(half[0] + half[1]) / 2 for half in halves.values() if len(half) == 2]


def _by_role(player: str, results: Sequence[Result]) -> tuple[Score | None, Score | None]:
    sound = [r for r in results if r.end_reason != "void"]
    first, second = ([r.returns[role] for r in sound if r.players[role] == player] for role in (0, 1))
    return _score(first), _score(second)


def _score(values: Sequence[float]) -> Score | None:
    return Score.of(values) if values else None


def _ends(player: str, results: Sequence[Result]) -> Ends | None:
    sound = [r for r in results if r.end_reason != "void"]
    if not sound:
        return None

    def share(reason: str) -> float:
        return sum(r.end_reason == reason for r in sound) / len(sound)

    def part(reason: str) -> float:
        return sum(r.returns[r.players.index(player)] for r in sound if r.end_reason == reason) / len(sound)

    lost = sum(r.forfeit_by is not None and r.players[r.forfeit_by] == player for r in sound)
    return Ends(
        finished=share("finished"),
        forfeit=share("forfeit"),
        cap=share("turn_cap"),
        lost_forfeit=lost / len(sound),
        finished_score=part("finished"),
        forfeit_score=part("forfeit"),
    )
