"""Policy versions as directories: published, checked, and carried to another machine's store."""

import dataclasses
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from spiral.config import Config, RunInterrupted, UserError
from spiral.storage import weight_files
from spiral.storage.weight_files import checksum, read_files, verify, write_files
from spiral.storage.weight_store import WeightStore
from spiral.types import WeightsRef

Patch = pytest.MonkeyPatch


def config(directory: Path | None) -> Config:
    tree = {"steps": 1, "model": {"name": "builtin/tiny"}, "games": [{"id": "kuhn_poker"}]}
    return Config.model_validate({**tree, "weights": {"dir": directory}})


def write(text: str) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        (directory / "weights").write_text(text)

    return fill


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("[!.]*"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WeightStore]:
    store = WeightStore(config(tmp_path))
    yield store
    store.close()


# --- checksums and files ---------------------------------------------------------------------------------------------


def test_a_checksum_covers_names_sizes_and_contents(tmp_path: Path) -> None:
    directories = [tmp_path / str(i) for i in range(5)]
    contents = [{"a": b"12", "b": b""}, {"a": b"12", "b": b""}, {"a": b"12"}, {"a": b"13", "b": b""}, {"b": b"12"}]
    for directory, files in zip(directories, contents, strict=True):
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_bytes(content)
    sums = [checksum(directory) for directory in directories]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 4


def test_a_checksum_sees_a_change_in_every_chunk(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(weight_files, "CHUNK", 4)
    file = tmp_path / "file"
    sums = set()
    for content in (b"aaaabbbbcc", b"xaaabbbbcc", b"aaaabbbxcc", b"aaaabbbbcx", b"bbbbaaaacc"):
        file.write_bytes(content)
        sums.add(checksum(tmp_path))
    assert len(sums) == 5


def test_files_travel_with_their_directories(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "below" / "a").write_bytes(b"content")
    (source / "empty").touch()
    (source / "link").symlink_to(source / "below" / "a")
    files = read_files(source)
    assert {name: bytes(content) for name, content in files.items()} == {
        "below/a": b"content",
        "empty": b"",
        "link": b"content",
    }
    assert {type(content) for content in files.values()} == {np.ndarray}
    write_files(files, tmp_path / "copy")
    assert checksum(tmp_path / "copy") == checksum(source)


# --- publishing ------------------------------------------------------------------------------------------------------


def test_publish_writes_the_weights_to_a_directory_of_the_version(store: WeightStore, tmp_path: Path) -> None:
    location, found = store.publish(write("w"), 1, version=7)
    assert location.name == "v000007"
    assert (location / "weights").read_text() == "w"
    assert found == checksum(location)
    assert location.parent.parent == tmp_path
    assert stat.S_IMODE(location.parent.stat().st_mode) == 0o700


def test_the_last_two_versions_are_kept(store: WeightStore) -> None:
    for version in range(4):
        location, _ = store.publish(write("w"), 1, version)
    assert names(location.parent) == ["v000002", "v000003"]


def test_publishing_a_version_again_replaces_it(store: WeightStore) -> None:
    _, old = store.publish(write("old"), 1, 3)
    location, new = store.publish(write("new"), 1, 3)
    assert (location / "weights").read_text() == "new"
    assert old != new


def test_higher_versions_are_removed_after_a_checkpoint_was_loaded(store: WeightStore) -> None:
    for version in (49, 50, 40, 41):
        location, _ = store.publish(write("w"), 1, version)
    assert names(location.parent) == ["v000040", "v000041"]


def test_runs_that_share_a_directory_leave_each_other_alone(store: WeightStore, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a user's own")
    location, _ = store.publish(write("one"), 1, 1)
    other = WeightStore(config(tmp_path))
    other.publish(write("other"), 1, 7)
    other.close()
    assert (location / "weights").read_text() == "one"
    assert names(tmp_path) == sorted(["data", location.parent.name])


def test_a_directory_that_cannot_be_used_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^weights.dir: .*/file/below cannot be used on .*: Not a directory$"):
        WeightStore(config(tmp_path / "file" / "below")).publish(write("w"), 1, 1)


@pytest.mark.parametrize(("free", "parent"), [(31, "memory"), (30, "temporary")])
def test_shared_memory_is_used_if_three_versions_fit(
    tmp_path: Path, monkeypatch: Patch, free: int, parent: str
) -> None:
    monkeypatch.setattr("spiral.storage.weight_store.SHARED_MEMORY", tmp_path / "memory")
    monkeypatch.setattr("spiral.storage.weight_store._free_bytes", lambda _: free)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    store = WeightStore(config(None))
    location, _ = store.publish(write("w"), 10, 1)
    assert location.parent.parent == tmp_path / parent
    store.close()


def test_versions_in_shared_memory_do_not_crowd_out_the_next(tmp_path: Path, monkeypatch: Patch) -> None:
    """Of room for three versions, two are taken by this run."""
    monkeypatch.setattr("spiral.storage.weight_store.SHARED_MEMORY", tmp_path / "memory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    store = WeightStore(config(None))
    for version, free in enumerate((3100, 2100, 1100, 1100)):
        monkeypatch.setattr("spiral.storage.weight_store._free_bytes", lambda _, free=free: free)
        location, _ = store.publish(write("w" * 1000), 1000, version)
        assert location.parent.parent == tmp_path / "memory"
    store.close()


# --- receiving -------------------------------------------------------------------------------------------------------


def published(store: WeightStore, text: str, version: int) -> WeightsRef:
    location, found = store.publish(write(text), 1, version)
    return WeightsRef(version=version, location=str(location), is_adapter=True, checksum=found)


def test_a_version_is_received_into_the_stores_own_directory(store: WeightStore, tmp_path: Path) -> None:
    sent = published(store, "w", 5)
    receiver = WeightStore(config(tmp_path / "other machine"))
    here = receiver.receive(sent, read_files(Path(sent.location)))
    assert Path(here.location).parent.parent == tmp_path / "other machine"
    assert (Path(here.location) / "weights").read_text() == "w"
    assert (here.version, here.is_adapter, here.checksum) == (5, True, sent.checksum)
    receiver.close()
    assert names(tmp_path / "other machine") == []


def test_a_version_that_is_there_is_not_written_again(store: WeightStore, tmp_path: Path) -> None:
    sent = published(store, "w", 5)
    receiver = WeightStore(config(tmp_path / "other"))
    here = receiver.receive(sent, read_files(Path(sent.location)))
    before = Path(here.location).stat().st_ino
    assert receiver.receive(sent, {}) == here
    assert Path(here.location).stat().st_ino == before


def test_another_content_of_the_same_version_replaces_it(store: WeightStore, tmp_path: Path) -> None:
    receiver = WeightStore(config(tmp_path / "other"))
    for text in ("old", "new"):
        sent = published(store, text, 5)
        here = receiver.receive(sent, read_files(Path(sent.location)))
        assert (Path(here.location) / "weights").read_text() == text


def test_past_selves_stay_until_they_are_left_out_twice(store: WeightStore, tmp_path: Path) -> None:
    receiver = WeightStore(config(tmp_path / "other"))

    def receive(text: str, version: int, *, is_past_self: bool) -> Path:
        sent = dataclasses.replace(published(store, text, version), is_past_self=is_past_self)
        return Path(receiver.receive(sent, read_files(Path(sent.location))).location)

    pool = [receive(f"past {version}", version, is_past_self=True) for version in (0, 9)]
    policy = [receive("policy", version, is_past_self=False) for version in (9, 10, 11)]
    assert [path.exists() for path in (*pool, *policy)] == [True, True, False, True, True]
    assert (pool[1] / "weights").read_text() == "past 9"
    receiver.keep_past({0, 9})
    receiver.keep_past({9})  # another engine may still be loading 0
    assert [path.exists() for path in pool] == [True, True]
    receiver.keep_past({9})
    assert [path.exists() for path in (*pool, *policy)] == [False, True, False, True, True]
    receiver.close()
    assert names(tmp_path / "other") == []


def test_files_damaged_on_the_way_are_refused(store: WeightStore, tmp_path: Path) -> None:
    sent = published(store, "w", 5)
    receiver = WeightStore(config(tmp_path / "other"))
    with pytest.raises(RunInterrupted, match=r"policy version 5 in .*/other/.*/v000005 is damaged"):
        receiver.receive(sent, {"weights": np.frombuffer(b"x", np.uint8)})


def test_damaged_or_missing_weights_are_noticed_before_they_are_loaded(store: WeightStore) -> None:
    weights = published(store, "w", 5)
    verify(weights)
    (Path(weights.location) / "weights").write_text("x")
    with pytest.raises(RunInterrupted, match=rf"policy version 5 in {weights.location} is damaged"):
        verify(weights)
    (Path(weights.location) / "weights").unlink()
    with pytest.raises(RunInterrupted, match="policy version 5"):
        verify(weights)
