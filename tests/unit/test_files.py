"""metrics.jsonl: what is written is read back, and damage is named."""

import json
import math
from pathlib import Path

import pytest

from spiral.config import UserError
from spiral.monitor.files import MetricsFile


def test_rows_are_read_back_in_order(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append({"step": 0, "train/loss": 0.1})
    file.append({"step": 1, "train/loss": -1e-7})
    assert MetricsFile(tmp_path).read() == [{"step": 0, "train/loss": 0.1}, {"step": 1, "train/loss": -1e-7}]


def test_a_row_is_one_line_of_json(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append({"step": 0, "train/loss": 0.5})
    file.append({"step": 1})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 0, "train/loss": 0.5}, {"step": 1}]


def test_a_run_without_metrics_has_no_rows(tmp_path: Path) -> None:
    assert MetricsFile(tmp_path).read() == []


def test_a_number_that_is_not_finite_is_read_back(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append({"step": 0, "ci95": math.inf})
    assert file.read() == [{"step": 0, "ci95": math.inf}]


@pytest.mark.parametrize("rest", ['{"step": 2, "train/lo', '{"step": 2}', "{"])
def test_an_incomplete_last_line_is_not_a_row(tmp_path: Path, rest: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n' + rest)
    assert MetricsFile(tmp_path).read() == [{"step": 0}, {"step": 1}]


def test_truncate_drops_later_rows(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    for step in range(5):
        file.append({"step": step})
    file.truncate(2)
    assert file.read() == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_truncate_and_append_after_an_incomplete_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"st')
    file = MetricsFile(tmp_path)
    file.truncate(1)
    file.append({"step": 2})
    assert file.read() == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_truncate_leaves_no_other_file(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append({"step": 0})
    file.truncate(0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "damaged",
    [b'{"step": 1', b"", b"[1]", b"{}", b'{"train/loss": 0.5}', b'{"step": "1"}', b'{"\xff": 1}', b"[" * 99_999],
)
@pytest.mark.parametrize("method", ["read", "truncate"])
def test_a_damaged_line_before_the_end_is_one_line_that_names_it(tmp_path: Path, damaged: bytes, method: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + damaged + b'\n{"step": 2}\n')
    before = path.read_bytes()
    with pytest.raises(UserError) as error:
        getattr(MetricsFile(tmp_path), method)(*([5] if method == "truncate" else []))
    assert str(error.value) == (
        f"{path}: line 2 is damaged; restore the file from a copy, or delete that line, "
        "which loses the metrics of one step"
    )
    assert path.read_bytes() == before


def test_a_damaged_line_is_counted_from_the_beginning_of_the_file_when_it_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n')
    rows, offset = MetricsFile(tmp_path).read_on(0)
    assert len(rows) == 2
    with path.open("a") as file:
        file.write('{"step": 2}\n{}\n')
    with pytest.raises(UserError, match="line 4 is damaged"):
        MetricsFile(tmp_path).read_on(offset)
