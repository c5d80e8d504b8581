"""The record of a run's episodes: Parquet, one row per turn."""

import math
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from spiral.config import UserError
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode
from tests.builders import episode, sampled, scripted

PLAYED = [
    episode(
        2,
        [
            replace(sampled(0, [1, 2], [3, 4], [-0.5, -0.25], version=3, max_version=4), continuations=(0.5, -1.0)),
            scripted(1, observation="a\n\u2028[b]", text="\\boxed{\u00e9}", action=None, error="\x00"),
        ],
        (0.1 + 0.2, -(0.1 + 0.2)),
        players=("policy", "random"),
    ),
    episode(3, [sampled(0, [5], [])], (-1.0, 1.0), end_reason="forfeit", forfeit_by=0),
    episode(4, end_reason="void", error="it crashed"),
    episode(5, [sampled(0, [6], [7]), sampled(1, [8], [9])], game="g", seed=2**62),
]
NUM_ROWS = 6
NAN = math.nan


def write(run_dir: Path, episodes: list[Episode], step: int = 12) -> Path:
    files = EpisodeFiles(run_dir)
    files.write(step, episodes)
    return files.path(step)


def test_episodes_are_read_back_as_equal_objects(tmp_path: Path) -> None:
    write(tmp_path, PLAYED)
    assert EpisodeFiles(tmp_path).read(12) == PLAYED


def test_arrays_that_are_read_back_have_the_types_of_those_written(tmp_path: Path) -> None:
    write(tmp_path, PLAYED[:1])
    (read,) = EpisodeFiles(tmp_path).read(12)
    completion = read.turns[0].completion
    assert completion is not None
    types = [array.dtype for array in (read.turns[0].prompt_ids, completion.token_ids, completion.logprobs)]
    assert types == [np.int32, np.int32, np.float32]


def test_a_step_without_episodes_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, [])
    assert EpisodeFiles(tmp_path).read(12) == []


def test_many_row_groups_are_read_back(tmp_path: Path) -> None:
    path = write(tmp_path, PLAYED * 3)
    pq.write_table(pq.read_table(path), path, row_group_size=4)
    assert pq.ParquetFile(path).num_row_groups == 5
    assert EpisodeFiles(tmp_path).read(12) == PLAYED * 3


def test_text_that_utf8_cannot_encode_does_not_end_the_run(tmp_path: Path) -> None:
    """A lone surrogate can come from a game or a tokenizer; it is written as a question mark."""
    write(tmp_path, [episode(0, [sampled(0, text="a\ud800b", observation="fine")])])
    (read,) = EpisodeFiles(tmp_path).read(12)
    assert (read.turns[0].text, read.turns[0].observation) == ("a?b", "fine")


def test_no_flipped_byte_changes_what_is_read(tmp_path: Path) -> None:
    """Page checksums cover the data; what describes it is either needed to read the file, or of no effect."""
    path = write(tmp_path, PLAYED)
    data, named = path.read_bytes(), 0
    for place in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert EpisodeFiles(tmp_path).read(12) == PLAYED, place
        except UserError:
            named += 1
    assert named > 0.7 * len(data) / 5


# --- read by others


def test_pandas_reads_one_row_per_turn(tmp_path: Path) -> None:
    files = EpisodeFiles(tmp_path)
    advantages, ratios = (np.array(values, np.float32) for values in ([0.5, NAN, 0.25, 1, -1], [1.5, NAN, 1, 1, 0.75]))
    files.write(12, PLAYED, advantages, ratios)
    frame = pd.read_parquet(files.path(12))
    assert len(frame) == NUM_ROWS
    first, second = frame.to_dict("records")[:2]
    lists = {name: first.pop(name).tolist() for name in ("prompt_ids", "token_ids", "logprobs", "continuations")}
    assert lists == {
        "prompt_ids": [1, 2],
        "token_ids": [3, 4],
        "logprobs": [-0.5, -0.25],
        "continuations": [0.5, -1.0],
    }
    assert {name: None if pd.isna(value) else value for name, value in first.items()} == {
        "match_id": 2,
        "game": "kuhn_poker",
        "seed": 1,
        "player_0": "policy",
        "player_1": "random",
        "return_0": 0.1 + 0.2,
        "return_1": -(0.1 + 0.2),
        "end_reason": "finished",
        "forfeit_by": None,
        "duration_s": 0.25,
        "episode_error": None,
        "turn": 0,
        "role": 0,
        "player": "policy",
        "observation": "o",
        "text": "t",
        "action": "a",
        "legal": True,
        "error": None,
        "finish_reason": "stop",
        "min_version": 3,
        "max_version": 4,
        "return": 0.1 + 0.2,
        "advantage": 0.5,
        "ratio": 1.5,
    }
    assert (second["player"], second["return"], second["token_ids"]) == ("random", -(0.1 + 0.2), None)
    assert frame["turn"].fillna(-1).tolist() == [0, 1, 0, -1, 0, 1]
    assert frame["advantage"].isna().tolist() == [False, True, False, True, False, False]
    assert frame["ratio"].dropna().tolist() == [1.5, 1.0, 1.0, 0.75]


def test_duckdb_reads_the_files_of_all_steps(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path, PLAYED, step)
    rows = duckdb.sql(
        f"select match_id, count(turn), sum(len(token_ids)), any_value(episode_error), min(ratio) "
        f"from '{tmp_path}/episodes/*.parquet' group by match_id order by match_id"
    ).fetchall()
    assert rows == [
        (2, 4, 4, None, None),
        (3, 2, 0, None, None),
        (4, 0, None, "it crashed", None),
        (5, 4, 4, None, None),
    ]


def test_duckdb_reads_tokens_and_log_probabilities(tmp_path: Path) -> None:
    path = write(tmp_path, PLAYED)
    query = f"select token_ids[1], logprobs[2], list_sum(logprobs) from '{path}' where match_id = 2 and \"return\" > 0"
    assert duckdb.sql(query).fetchall() == [(3, -0.25, -0.75)]


# --- the files of a run


def test_each_step_has_its_own_file(tmp_path: Path) -> None:
    path = write(tmp_path, PLAYED)
    assert path == tmp_path / "episodes" / "step_000012.parquet"
    assert list((tmp_path / "episodes").iterdir()) == [path]


def test_match_ids_are_listed_in_order(tmp_path: Path) -> None:
    write(tmp_path, PLAYED)
    assert EpisodeFiles(tmp_path).match_ids(12) == [2, 3, 4, 5]


def test_steps_are_listed_in_order(tmp_path: Path) -> None:
    for step in (10, 9, 100, 1_000_000):
        write(tmp_path, [], step)
    (tmp_path / "episodes" / "step_mine.parquet").touch()
    (tmp_path / "episodes" / "step_000011.parquet.tmp").touch()
    assert EpisodeFiles(tmp_path).steps() == [9, 10, 100, 1_000_000]


def test_a_directory_without_episodes_has_no_steps(tmp_path: Path) -> None:
    assert EpisodeFiles(tmp_path / "none").steps() == []


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, PLAYED)
    write(tmp_path, PLAYED[3:])
    assert EpisodeFiles(tmp_path).read(12) == PLAYED[3:]


def test_truncate_removes_later_steps_and_incomplete_files(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, [], step)
    (tmp_path / "episodes" / "step_000001.parquet.tmp").touch()
    EpisodeFiles(tmp_path).truncate(2)
    names = sorted(path.name for path in (tmp_path / "episodes").iterdir())
    assert names == ["step_000001.parquet", "step_000002.parquet"]


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 2, 3, 4]), (1, [4]), (3, [2, 3, 4]), (9, [1, 2, 3, 4])])
def test_prune_keeps_the_newest_steps(tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, [], step)
    EpisodeFiles(tmp_path).prune(keep)
    assert EpisodeFiles(tmp_path).steps() == left


def test_an_interrupted_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, PLAYED)

    def full(table: object, path: Path, **_: object) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, PLAYED[3:])
    assert EpisodeFiles(tmp_path).read(12) == PLAYED
    assert [path.name for path in (tmp_path / "episodes").iterdir()] == ["step_000012.parquet"]


# --- damage


def of_another_kind(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["match_id"]), path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    """One bit within the first column's values."""
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flipped, of_another_kind, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("method", ["read", "match_ids"])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, damage: object, method: str) -> None:
    path = write(tmp_path, PLAYED)
    other = write(tmp_path, PLAYED, step=13)
    damage(path)  # type: ignore[operator]
    with pytest.raises(UserError) as error:
        getattr(EpisodeFiles(tmp_path), method)(12)
    message = str(error.value)
    assert message.startswith(f"{path} cannot be read (")
    assert message.endswith("restore it from a copy, or remove it; the files of other steps do not depend on it")
    assert "\n" not in message
    assert EpisodeFiles(tmp_path).read(13) == PLAYED, other
