"""Episodes as an Arrow table with one row per turn, and back."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spiral.types import Completion, Episode, Match, Turn

TURN_COLUMNS = {
    "role": pa.int8(),
    "observation": pa.string(),
    "text": pa.string(),
    "action": pa.string(),
    "legal": pa.bool_(),
    "error": pa.string(),
}
COMPLETION_COLUMNS = {"finish_reason": pa.string(), "min_version": pa.int32(), "max_version": pa.int32()}
EPISODE_COLUMNS = {
    "match_id": pa.int64(),
    "game": pa.string(),
    "seed": pa.int64(),
    "player_0": pa.string(),
    "player_1": pa.string(),
    "return_0": pa.float64(),
    "return_1": pa.float64(),
    "end_reason": pa.string(),
    "forfeit_by": pa.int8(),
    "duration_s": pa.float64(),
    "episode_error": pa.string(),
}
SCHEMA = pa.schema(
    {
        **EPISODE_COLUMNS,
        "turn": pa.int32(),
        "player": pa.string(),
        "return": pa.float64(),
        **TURN_COLUMNS,
        **COMPLETION_COLUMNS,
        "prompt_ids": pa.list_(pa.int32()),
        "token_ids": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float32()),
        "continuations": pa.list_(pa.float64()),
        "advantage": pa.float32(),
        "ratio": pa.float32(),
    }
)
"""The columns of an episode file."""


def to_table(
    episodes: Sequence[Episode], advantages: NDArray[np.float32] | None, ratios: NDArray[np.float32] | None
) -> pa.Table:
    """The table of `episodes`; `advantages` and `ratios` are those of EpisodeFiles.write."""
    rows = [(i, number) for i, episode in enumerate(episodes) for number in range(len(episode.turns)) or (None,)]
    turns = [None if number is None else episodes[i].turns[number] for i, number in rows]
    completions = [turn and turn.completion for turn in turns]
    seats = [turn and (episodes[i], turn.role) for (i, _), turn in zip(rows, turns, strict=True)]
    owner = pa.array((i for i, _ in rows), pa.int64())
    fields = list(zip(*map(_episode_fields, episodes), strict=True)) or [()] * len(EPISODE_COLUMNS)
    columns = {
        name: _array(values, kind).take(owner)
        for values, (name, kind) in zip(fields, EPISODE_COLUMNS.items(), strict=True)
    }
    columns["turn"] = pa.array((number for _, number in rows), pa.int32())
    columns["player"] = _array([seat and seat[0].match.players[seat[1]] for seat in seats], pa.string())
    columns["return"] = pa.array([seat and seat[0].returns[seat[1]] for seat in seats], pa.float64())
    for objects, kinds in ((turns, TURN_COLUMNS), (completions, COMPLETION_COLUMNS)):
        columns |= {name: _array(_attributes(objects, name), kind) for name, kind in kinds.items()}
    columns["prompt_ids"] = _lists(_attributes(turns, "prompt_ids"), np.int32)
    columns["token_ids"] = _lists(_attributes(completions, "token_ids"), np.int32)
    columns["logprobs"] = _lists(_attributes(completions, "logprobs"), np.float32)
    columns["continuations"] = pa.array(_attributes(turns, "continuations"), pa.list_(pa.float64()))
    columns["advantage"] = _figures(advantages, turns)
    columns["ratio"] = _figures(ratios, turns)
    return pa.table(columns, schema=SCHEMA)


def to_episodes(table: pa.Table) -> list[Episode]:
    """The episodes that `to_table` was given. Raises KeyError or ValueError for a table that it did not make."""
    scalars = ("turn", *EPISODE_COLUMNS, *TURN_COLUMNS, *COMPLETION_COLUMNS)
    columns = {name: table[name].to_pylist() for name in (*scalars, "continuations")}
    columns |= {name: _arrays(table[name], np.int32) for name in ("prompt_ids", "token_ids")}
    columns["logprobs"] = _arrays(table["logprobs"], np.float32)
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return [_episode(list(group)) for _, group in groupby(rows, lambda row: row["match_id"])]


def to_scored_episodes(table: pa.Table) -> Iterator[tuple[Episode, list[tuple[float | None, float | None]]]]:
    """The episodes, each with the (advantage, ratio) of its turns; None for what was not trained on."""
    figures = list(zip(table["advantage"].to_pylist(), table["ratio"].to_pylist(), strict=True))
    start = 0
    for episode in to_episodes(table):
        yield episode, figures[start : start + len(episode.turns)]
        start += max(1, len(episode.turns))  # an episode without turns has one row


def _episode_fields(episode: Episode) -> tuple[Any, ...]:
    """The values of EPISODE_COLUMNS."""
    match = episode.match
    outcome = (*episode.returns, episode.end_reason, episode.forfeit_by, episode.duration_s, episode.error)
    return (match.id, match.game, match.seed, *match.players, *outcome)


def _episode(rows: list[dict[str, Any]]) -> Episode:
    first = rows[0]
    players = (first["player_0"], first["player_1"])
    return Episode(
        match=Match(id=first["match_id"], game=first["game"], seed=first["seed"], players=players),
        turns=tuple(_turn(row) for row in rows if row["turn"] is not None),
        returns=(first["return_0"], first["return_1"]),
        end_reason=first["end_reason"],
        forfeit_by=first["forfeit_by"],
        duration_s=first["duration_s"],
        error=first["episode_error"],
    )


def _turn(row: dict[str, Any]) -> Turn:
    completion = None
    if row["token_ids"] is not None:
        fields = {name: row[name] for name in ("token_ids", "logprobs", *COMPLETION_COLUMNS)}
        completion = Completion(**fields)
    fields = {name: row[name] for name in ("prompt_ids", *TURN_COLUMNS)}
    return Turn(completion=completion, continuations=tuple(row["continuations"]), **fields)


def _attributes(objects: Iterable[object | None], name: str) -> list[Any]:
    return [None if one is None else getattr(one, name) for one in objects]


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array. What UTF-8 cannot encode, lone surrogates, becomes a question mark."""
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array([value and value.encode(errors="replace").decode() for value in values], kind)


def _lists(arrays: Sequence[NDArray[Any] | None], dtype: type[np.int32 | np.float32]) -> pa.Array:
    """A list for each array, and null for None."""
    present = [array for array in arrays if array is not None]
    values = np.concatenate([np.empty(0, dtype), *present])
    offsets = np.cumsum([0, *(0 if array is None else len(array) for array in arrays)], dtype=np.int32)
    is_null = np.array([array is None for array in arrays], np.bool_)
    return pa.ListArray.from_arrays(offsets, pa.array(values), mask=pa.array(is_null))


def _arrays(column: pa.ChunkedArray, dtype: type[np.int32 | np.float32]) -> list[NDArray[Any] | None]:
    """The lists of a column as read-only views of it."""
    found: list[NDArray[Any] | None] = []
    for chunk in column.chunks:
        values = np.from_dlpack(chunk.values)  # to_numpy() would load pandas where that is installed
        if values.dtype != dtype:
            raise ValueError(f"a column of lists holds {values.dtype}, expected {np.dtype(dtype)}")
        bounds, valid = chunk.offsets.to_pylist(), chunk.is_valid().to_pylist()
        found += [values[a:b] if there else None for a, b, there in zip(bounds, bounds[1:], valid, strict=False)]
    return found


def _figures(of_turns: NDArray[np.float32] | None, turns: Sequence[Turn | None]) -> pa.Array:
    """One figure per row. `of_turns` holds those of the rows that have a turn; NaN and missing ones are null."""
    figures = np.full(len(turns), np.nan, np.float32)
    if of_turns is not None:
        figures[[turn is not None for turn in turns]] = of_turns
    return pa.array(figures, from_pandas=True)
