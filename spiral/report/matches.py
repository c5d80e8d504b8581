"""The matches of a report: chosen, played again, and put into columns."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from spiral.errors import UserError
from spiral.game.views import NotReplayable, Seats, recorded, replayed
from spiral.report import equilibrium
from spiral.report.equilibrium import State, count_actions
from spiral.report.match_columns import NONE, MatchColumns, Numbered
from spiral.report.pieces import Pieces
from spiral.report.sampling import choose, spread
from spiral.report.source import Source
from spiral.storage.episode_files import damage_named
from spiral.types import Episode

if TYPE_CHECKING:
    import pyarrow as pa

MAX_STEPS = 500  # of a run, whose episodes are looked at
MAX_CHARS = 32_000_000  # of JSON; the page then has some 15 MB at most
REPLAY_S = 20.0  # of CPU time, for playing matches again; those left show what was recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Matches of one run: `steps` maps a step to the ids of those chosen, out of `num_played` that it trained on."""

    run: int
    source: Source
    steps: dict[int, list[int]]
    num_played: int


def select(run: int, source: Source, most: int) -> Selection:
    """Choose at most `most` matches of a run. Raises UserError if a file of episodes is damaged."""
    matches: list[tuple[int, int]] = []
    strata: list[tuple[str, int, str]] = []
    for step in spread(source.episodes.steps(), MAX_STEPS):
        if (table := _table(source, step, ["match_id", "game", "end_reason"])) is None:
            continue
        columns = table.to_pydict().values()
        for match_id, game, end in dict.fromkeys(zip(*columns, strict=True)):
            matches.append((step, match_id))
            strata.append((game, step, end))
    chosen: dict[int, list[int]] = {}
    for index in choose(strata, most):
        step, match_id = matches[index]
        chosen.setdefault(step, []).append(match_id)
    in_rows = int(sum(row.get("rollout/episodes", 0) for row in source.rows))
    return Selection(run=run, source=source, steps=chosen, num_played=max(in_rows, len(strata)))


class Builder:
    """Builds the columns of the matches of some runs."""

    def __init__(self) -> None:
        self._columns = MatchColumns()
        self._states = Numbered()
        self._played: dict[str, list[int]] = {}
        self._special: dict[str, None] = {}
        self._deadline_s = time.thread_time() + REPLAY_S
        self.num_shown: Counter[int] = Counter()
        """Matches of each run."""
        self.problems: Counter[str] = Counter()
        """What is missing and why, and from how many matches."""

    def add(self, selection: Selection, max_chars: int) -> None:
        """Add the chosen matches of a run, step by step, up to a size of `max_chars`."""
        source = selection.source
        pieces = Pieces(source.tokenizer_file) if source.tokenizer_file else None
        self._special |= dict.fromkeys(pieces.special() if pieces else ())
        max_chars += self._columns.size
        steps = list(selection.steps.items())
        random.Random(0).shuffle(steps)  # those that find no room are then spread over the run
        for step, match_ids in steps:
            if self._columns.size > max_chars:
                self.problems["left out, because the page would become too large"] += len(match_ids)
                continue
            if (table := _table(source, step)) is None:
                self.problems["left out, because the run has removed their file"] += len(match_ids)
                continue
            self.num_shown[selection.run] += len(match_ids)
            of_states = self._count_states(table, selection.run, step)
            in_time = time.thread_time() < self._deadline_s  # once a step: the call may take half a millisecond
            with damage_named(source.episodes.path(step)):
                episodes = list(_episodes(table, match_ids))
            for episode, figures in episodes:
                states = [of_states(episode.match.game, turn.role, turn.observation) for turn in episode.turns]
                seats, is_replayed = self._seats(episode, in_time)
                self._columns.add(
                    episode,
                    seats,
                    run=selection.run,
                    step=step,
                    replayed=is_replayed,
                    figures=figures,
                    states=states,
                    pieces=pieces,
                )

    def data(self) -> dict[str, Any]:
        """What the page reads, as JSON takes it."""
        states: list[State] = self._states.values()
        return self._columns.data(list(self._special)) | {
            "states": [
                {"actions": state.actions, "equilibrium": [round(p, 4) for p in state.equilibrium]} for state in states
            ],
            "played": self._played,
        }

    def _seats(self, episode: Episode, in_time: bool) -> tuple[list[Seats], bool]:
        """The views of a match, and whether it was played again for them."""
        if not in_time:
            late = f"playing all matches again would take more than {REPLAY_S:g} s"
            self.problems[f"without the other seat's view: {late}"] += 1
            return recorded(episode), False
        try:
            return replayed(episode), True
        except NotReplayable as problem:
            self.problems[f"without the other seat's view: {problem}"] += 1
            return recorded(episode), False

    def _count_states(self, table: "pa.Table", run: int, step: int) -> Callable[[str, int, str], int]:
        """Count the policy's actions in the small exact games of a step; returns the lookup of a state's number."""
        numbers: dict[tuple[str, int, str], int] = {}
        for (game, role, observation), taken in count_actions(table).items():
            if (state := equilibrium.states(game).get((role, observation))) is not None:
                number = numbers[game, role, observation] = self._states.number(state)
                counts = [taken[action] for action in state.actions]
                self._played[f"{run}/{step}/{number}"] = [*counts, taken[None]]
        return lambda game, role, observation: numbers.get((game, role, observation), NONE)


def _table(source: Source, step: int, columns: list[str] | None = None) -> "pa.Table | None":
    """The table of a step; None if the run, which goes on, has removed its file (`episodes.keep`)."""
    try:
        return source.episodes.table(step, columns)
    except UserError:
        if source.episodes.path(step).exists():
            raise
        return None


def _episodes(
    table: "pa.Table", match_ids: Sequence[int]
) -> Iterator[tuple[Episode, list[tuple[float | None, float | None]]]]:
    """The episodes with these ids, each with the (advantage, ratio) of its turns."""
    import pyarrow as pa

    from spiral.storage.episode_table import to_scored_episodes

    wanted, first, slices = set(match_ids), 0, []
    for match_id, group in groupby(table["match_id"].to_pylist()):
        length = len(list(group))
        if match_id in wanted:
            slices.append(table.slice(first, length))
        first += length
    # A filter would load pandas where that is installed, which takes longer than all of this.
    yield from to_scored_episodes(pa.concat_tables(slices))
