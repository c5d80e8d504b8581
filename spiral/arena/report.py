"""The report of an arena: on the console, as JSON, and as one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiral.evaluation.arena import Score
from spiral.evaluation.standings import Line, Standings
from spiral.storage.atomic import atomic_file

if TYPE_CHECKING:
    from rich.table import Table


def as_json(games: Sequence[Standings], rules: Mapping[str, Any], endpoints: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report as plain data."""
    return {"rules": dict(rules), "games": [asdict(game) for game in games], "endpoints": dict(endpoints)}


def write_html(path: Path, games: Sequence[Standings], rules: Mapping[str, Any], endpoints: Mapping[str, Any]) -> None:
    """Write the report as one HTML file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("spiral.arena", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"score": score_text, "share": share_text, "colour": _colour}
    crosses = [(game, cross_table(game)) for game in games]
    text = environment.get_template("arena.html").render(crosses=crosses, rules=rules, endpoints=endpoints)
    with atomic_file(path) as aside:
        aside.write_text(text, "utf-8")


def cross_table(game: Standings) -> list[list[Score | None]]:
    """The score of each player, in the order of the standings, against each other one; None where there is none."""
    scores: dict[tuple[str, str], Score] = {}
    for meeting in game.meetings:
        if meeting.score is not None:
            mean, ci95, pairs = meeting.score.mean, meeting.score.ci95, meeting.score.num_pairs
            scores[meeting.first, meeting.second] = Score(mean, ci95, pairs)
            scores[meeting.second, meeting.first] = Score(0.0 - mean, ci95, pairs)
    names = [line.player for line in game.lines]
    return [[scores.get((row, column)) for column in names] for row in names]


def console_tables(game: Standings) -> "list[Table]":
    """The standings of a game, its scores by role and by the end of the match, and the cross table."""
    ranking = _table(game.game, "player", "Elo", "Nash average", "mean return")
    parts = _table(
        "by role and by end", "player", "role 0", "role 1", "finished", "forfeit", "own forfeits", "cap", "illegal"
    )
    cross = _table("mean return of the row against the column", "", *(line.player for line in game.lines))
    for line, row in zip(game.lines, cross_table(game), strict=True):
        elo = "" if line.rating is None else f"{line.rating.value:+.0f} ± {line.rating.ci95:.0f}"
        nash = "" if line.nash is None else f"{line.nash[0]:+.3f}"
        ranking.add_row(line.player, elo, nash, score_text(line.score))
        roles = ["" if score is None else f"{score.mean:+.3f}" for score in line.by_role]
        parts.add_row(line.player, *roles, *_ends(line), share_text(line.illegal_rate))
        cross.add_row(line.player, *map(score_text, row))
    return [ranking, parts, cross]


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def _ends(line: Line) -> list[str]:
    ends = line.ends
    if ends is None:
        return [""] * 4
    finished, forfeit = (
        f"{ends.finished:.0%} {ends.finished_score:+.3f}",
        f"{ends.forfeit:.0%} {ends.forfeit_score:+.3f}",
    )
    return [finished, forfeit, f"{ends.lost_forfeit:.0%}", f"{ends.cap:.0%}"]


def remarks(game: Standings) -> list[str]:
    """What a reader of the tables must know: cycles, and matches that do not count."""
    lines = [f"a cycle: {' beats '.join([*cycle, cycle[0]])}" for cycle in game.cycles.cycles]
    if game.cycles.groups:
        lines.append("within a cycle the order of the ratings means nothing: read the cross table")
    if game.cycles.cyclic_share is not None and len(game.lines) > 2:
        lines.append(f"{game.cycles.cyclic_share:.0%} of the squared mean returns cannot be explained by ratings")
    return [*lines, *game.notes]


def score_text(score: Score | None) -> str:
    """A mean return with its interval."""
    if score is None:
        return ""
    return f"{score.mean:+.3f}" + ("" if score.ci95 is None else f" ± {score.ci95:.3f}")


def share_text(share: float) -> str:
    """A share in percent."""
    return f"{share:.1%}"


def _colour(score: Score | None) -> str:
    """The background of a cell of the cross table: blue for wins, orange for losses."""
    if score is None:
        return "transparent"
    return f"rgba({'30,110,220' if score.mean > 0 else '230,120,20'},{min(1.0, abs(score.mean)) * 0.55:.2f})"
