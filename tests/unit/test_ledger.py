"""The ledger: what is appended comes back, whatever a killed process or a disk did to the end of the file."""

from pathlib import Path

import pytest

from spiral.errors import UserError
from spiral.monitor.ledger import Ledger, LedgerLine, as_ranges, minus


def three_steps(run_dir: Path) -> Path:
    """The file of a ledger with three steps."""
    ledger = Ledger(run_dir)
    ledger.append(1, 1, [2, 0, 1, 4], [3])
    ledger.append(2, 2, [5, 6, 7, 8], [])
    ledger.append(3, 3, [9, 11], [12, 10])
    return run_dir / "ledger.jsonl"


def steps(run_dir: Path) -> list[int]:
    return [line.step for line in Ledger(run_dir).read()]


def test_a_line_is_json_with_the_first_and_last_id_of_each_range(tmp_path: Path) -> None:
    assert three_steps(tmp_path).read_text() == (
        '{"step": 1, "version": 1, "trained": [[0, 2], [4, 4]], "void": [3]}\n'
        '{"step": 2, "version": 2, "trained": [[5, 8]], "void": []}\n'
        '{"step": 3, "version": 3, "trained": [[9, 9], [11, 11]], "void": [10, 12]}\n'
    )


def test_lines_come_back(tmp_path: Path) -> None:
    three_steps(tmp_path)
    first, _, third = Ledger(tmp_path).read()
    assert first == LedgerLine(step=1, version=1, trained=(range(0, 3), range(4, 5)), void=(range(3, 4),))
    assert third.void == (range(10, 11), range(12, 13))


def test_a_match_that_a_step_trained_on_twice_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"step 1 trained on a match twice: \[2, 3, 3\]"):
        Ledger(tmp_path).append(1, 1, [3, 2, 3], [])


def test_a_run_without_a_ledger_has_no_lines(tmp_path: Path) -> None:
    assert Ledger(tmp_path).read() == []


@pytest.mark.parametrize(
    "tail", [b'{"step": 4, "ver', b"\0\0\0", b'{"step": 4, "version": 4, "trained": [], "void": []}']
)
def test_an_incomplete_last_line_is_ignored(tmp_path: Path, tail: bytes) -> None:
    with three_steps(tmp_path).open("ab") as file:
        file.write(tail)
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"step": 2, "version": 2, "trained": [[5, 8]]}',
        b'{"step": 2, "version": 2, "trained": [[8, 5]], "void": []}',
        b'{"step": 2, "version": 2, "trained": [[5, 8], [7, 9]], "void": []}',
        b'{"step": 2, "version": 2, "trained": [[5, 8, 9]], "void": []}',
        b'{"step": true, "version": 2, "trained": [], "void": []}',
        b'{"step": 2, "version": -2, "trained": [], "void": []}',
        b'{"step": 2, "version": 2, "trained": [], "void": [1.5]}',
    ],
)
def test_a_damaged_line_is_named_with_its_file_and_the_cure(tmp_path: Path, line: bytes) -> None:
    path = three_steps(tmp_path)
    first, _, third = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line, third, b""]))
    with pytest.raises(UserError) as caught:
        Ledger(tmp_path).read()
    assert str(caught.value) == (
        f"{path}: line 2 is damaged; restore the file from a copy, or delete the line "
        "(`spiral verify` then reports its step as missing)"
    )


@pytest.mark.parametrize(("last_step", "left"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_truncate_drops_later_steps(tmp_path: Path, last_step: int, left: list[int]) -> None:
    three_steps(tmp_path)
    Ledger(tmp_path).truncate(last_step)
    assert steps(tmp_path) == left
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.jsonl"]


def test_truncate_removes_an_incomplete_last_line_so_that_the_next_step_can_be_appended(tmp_path: Path) -> None:
    with three_steps(tmp_path).open("a") as file:
        file.write('{"step": 4, "ver')
    Ledger(tmp_path).truncate(3)
    Ledger(tmp_path).append(4, 4, [13], [])
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_damage_after_the_last_step_that_is_kept_does_not_matter(tmp_path: Path) -> None:
    path = three_steps(tmp_path)
    path.write_text(path.read_text().replace('"step": 3', '"step": x'))
    Ledger(tmp_path).truncate(2)
    assert steps(tmp_path) == [1, 2]


def test_truncating_a_run_without_a_ledger_creates_none(tmp_path: Path) -> None:
    Ledger(tmp_path).truncate(3)
    assert list(tmp_path.iterdir()) == []


def test_ids_as_ranges() -> None:
    assert as_ranges([7, 1, 2, 3, 3, 9, 8]) == (range(1, 4), range(7, 10))
    assert as_ranges([]) == ()


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ([], [0, 1, 2, 3, 4, 7, 8, 9]),
        ([range(0, 20)], []),
        ([range(3, 8)], [0, 1, 2, 8, 9]),
        ([range(9, 10), range(1, 2)], [0, 2, 3, 4, 7, 8]),
        ([range(1, 4), range(2, 3), range(5, 7)], [0, 4, 7, 8, 9]),
    ],
)
def test_ids_without_others(others: list[range], left: list[int]) -> None:
    assert minus([range(0, 5), range(7, 10)], others) == as_ranges(left)
