"""A round robin between any players: its matches, and the file of their results."""

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spiral.config import UserError
from spiral.storage.atomic import atomic_file
from spiral.types import EndReason, EpisodeHeader, Match

Key = tuple[str, str, str, int]
"""(game, player in role 0, player in role 1, seed): what a match of a round robin is known by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A match that was played, without its turns. `turns` and `illegal` count those of each role."""

    game: str
    seed: int
    players: tuple[str, str]
    returns: tuple[float, float]
    end_reason: EndReason
    forfeit_by: int | None
    turns: tuple[int, int]
    illegal: tuple[int, int]
    duration_s: float
    error: str | None = None

    @classmethod
    def of(cls, header: EpisodeHeader) -> "Result":
        """The result in an episode's header."""
        own = [[turn for turn in header.turns if turn.role == role] for role in (0, 1)]
        return cls(
            game=header.match.game,
            seed=header.match.seed,
            players=header.match.players,
            returns=header.returns,
            end_reason=header.end_reason,
            forfeit_by=header.forfeit_by,
            turns=(len(own[0]), len(own[1])),
            illegal=(sum(not turn.legal for turn in own[0]), sum(not turn.legal for turn in own[1])),
            duration_s=round(header.duration_s, 3),
            error=header.error,
        )

    @property
    def key(self) -> Key:
        return (self.game, *self.players, self.seed)


def key_of(match: Match) -> Key:
    """What a match is known by, whatever its number."""
    return (match.game, *match.players, match.seed)


def round_robin(games: Sequence[str], players: Mapping[str, Sequence[str]], pairs: int, seed: int) -> list[Match]:
    """Every two of a game's `players` play `pairs` seeds, each in both seats. All meet on the same seeds.

    A tournament with more pairs or players begins with the matches of a smaller one.
    """
    matches = []
    numbers = itertools.count()
    for game in games:
        rng = random.Random(f"{seed}/arena/{game}")
        seeds = [rng.getrandbits(31) for _ in range(pairs)]
        for first, second in itertools.combinations(players[game], 2):
            for match_seed in seeds:
                for seats in ((first, second), (second, first)):
                    matches.append(Match(id=next(numbers), game=game, seed=match_seed, players=seats))
    return matches


class ResultsFile:
    """results.jsonl in the directory of an arena: a line per match, appended as matches end.

    `arena.json` beside it holds the settings that all its matches share: who resumes with others is refused.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "results.jsonl"
        self._settings = directory / "arena.json"

    def open(self, settings: Mapping[str, Any]) -> list[Result]:
        """Make the directory, or read the results in it. Raises UserError if they were played with other settings.

        `settings["players"]` may differ in players that only one of the two has.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._settings.exists():
            before = self._before()
            for name, label in settings["players"].items():
                if before["players"].get(name, label) != label:
                    raise UserError(
                        f"{self._path.parent}: player {name} was {before['players'][name]}, and now is {label}; give "
                        "one of them another name (NAME=PLAYER), or choose another directory"
                    )
            settings = {**settings, "players": {**before["players"], **settings["players"]}}
            changed = [key for key in settings if key != "players" and settings[key] != before.get(key)]
            if changed:
                key = changed[0]
                raise UserError(
                    f"{self._path.parent} holds matches with {key} {before.get(key)}, not {settings[key]}: results of "
                    "different rules cannot be mixed; choose another directory"
                )
        with atomic_file(self._settings) as aside:
            aside.write_text(json.dumps(settings, indent=1) + "\n")
        return self.read()

    def _before(self) -> dict[str, Any]:
        """The settings of the matches that are there. Raises UserError if the file is damaged."""
        try:
            before = json.loads(self._settings.read_text())
        except (ValueError, RecursionError):
            before = None
        if not isinstance(before, dict) or not isinstance(before.get("players"), dict):
            raise UserError(f"{self._settings} is damaged: restore it from a copy, or choose another directory")
        return before

    def append(self, results: Iterable[Result]) -> None:
        """Add lines, each of them complete before the next."""
        with self._path.open("a") as file:
            file.writelines(json.dumps(asdict(result)) + "\n" for result in results)

    def read(self) -> list[Result]:
        """All results; of a match that was played again, because it was void, the last.

        What a killed process left of its last line is cut off. Raises UserError for a damaged line.
        """
        if not self._path.exists():
            return []
        *lines, torn = self._path.read_bytes().split(b"\n")
        if torn:
            with self._path.open("r+b") as file:
                file.truncate(self._path.stat().st_size - len(torn))
        found = {}
        for number, line in enumerate(lines, start=1):
            try:
                result = _result(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise UserError(f"{self._path}: line {number} is damaged; delete it to play its match again") from error
            found[result.key] = result
        return list(found.values())


def _result(values: dict[str, Any]) -> Result:
    pairs = {name: tuple(values[name]) for name in ("players", "returns", "turns", "illegal")}
    return Result(**{**values, **pairs})
