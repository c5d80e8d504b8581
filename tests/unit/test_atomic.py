"""Files and directories written aside: complete or absent."""

from pathlib import Path

import pytest

from spiral.storage.atomic import atomic_directory, atomic_file


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with atomic_file(tmp_path / "a") as aside:
        aside.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_file(tmp_path / "a") as aside:
        aside.write_text("half")
        raise OSError("disk full")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_directory_appears_when_the_block_ends(tmp_path: Path, durable: bool) -> None:
    with atomic_directory(tmp_path / "a", durable=durable) as aside:
        (aside / "file").write_text("x")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path / "a") == ["file"]
    assert names(tmp_path) == ["a"]


def test_an_exception_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"), atomic_directory(tmp_path / "a") as aside:
        (aside / "file").write_text("half")
        raise OSError("disk full")
    assert names(tmp_path) == []


def test_a_directory_with_files_is_not_touched_unless_told_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("x")
    with pytest.raises(OSError, match="not empty"), atomic_directory(tmp_path / "a"):
        pass
    with atomic_directory(tmp_path / "a", if_exists="keep"):
        pass
    assert names(tmp_path / "a") == ["mine"]
    with atomic_directory(tmp_path / "a", if_exists="replace") as aside:
        (aside / "new").write_text("y")
    assert names(tmp_path / "a") == ["new"]
    assert names(tmp_path) == ["a"]
