"""Mutated files of a run directory: what reads them accepts or refuses them in one line, and changes nothing."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from spiral import Run
from spiral.config import load_config
from spiral.learn.weights import checkpoint
from spiral.monitor.files import MetricsFile
from spiral.monitor.ledger import Ledger
from spiral.monitor.replay import show
from spiral.storage.episode_files import EpisodeFiles
from spiral.verify import verify
from tests.fuzzing import examples, one_line
from tests.run_directory import write_run


def contents(directory: Path) -> dict[Path, bytes]:
    """Every file below a directory."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """The files of a run of three steps, and of its parent directory, which nothing may change."""
    parent = tmp_path_factory.mktemp("runs")
    (parent / "other").mkdir()
    (parent / "other" / "notes").write_text("mine")
    write_run(parent / "fuzzed", 3, checkpoints=(1, 2))
    return contents(parent)


FILES = ["config.yaml", "metrics.jsonl", "ledger.jsonl", "episodes/step_000001.parquet", "episodes/step_000003.parquet"]
FILES += [
    f"checkpoints/step_00000{step}/{name}"
    for step, name in [(1, "state.json"), (1, "learner.pt"), (2, "state.json"), (2, "files.json"), (2, "learner.pt")]
]
FILES += ["checkpoints/step_000002/model.safetensors", "checkpoints/step_000002/config.yaml"]

damages = st.one_of(
    st.none(),  # the file is missing
    st.binary(max_size=40).map(lambda junk: lambda data: junk),
    st.floats(0, 1).map(lambda share: lambda data: data[: round(share * len(data))]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=3)), min_size=1, max_size=3).map(
        lambda places: lambda data: overwritten(data, places)
    ),
    st.sampled_from([b"[" * 1100, b"null\n", b"{}\n", b"[]\n", b'{"step": 1e999}\n']).map(
        lambda text: lambda data: text
    ),
    st.sampled_from([b"0", b"1", b"2", b"4"]).flatmap(
        lambda old: st.sampled_from([b"7", b"-1", b"1e9", b"9" * 5000, b"null"]).map(
            lambda new: lambda data: data.replace(old, new, 1)
        )
    ),
)


def overwritten(data: bytes, places: list[tuple[float, bytes]]) -> bytes:
    for position, junk in places:
        at = round(position * len(data))
        data = data[:at] + junk + data[at + len(junk) :]
    return data


def look_at_everything(run_dir: Path, damaged: Path) -> None:
    """All that reads a run directory without writing to it."""
    if damaged.name == "config.yaml":
        with one_line():
            load_config(damaged)
    with one_line():
        run = Run.open(run_dir)
        for read in (lambda: run.metrics, lambda: run.model_dir, run.episodes, lambda: run.episodes(1)):
            with one_line():
                read()
        assert len(run.checkpoints) <= 2
    with one_line():
        assert all("\n" not in fault for fault in verify(run_dir).faults)
    with one_line():
        show(run_dir, None, None, 2, Console(file=StringIO()))
    newest = checkpoint.newest_sound(run_dir)
    assert newest is None or checkpoint.read_state(newest)["step"] == checkpoint.step_of(newest)


@examples(600)
@given(name=st.sampled_from(FILES), damage=damages)
def test_files_of_a_run(pristine: dict[Path, bytes], name: str, damage: Callable[[bytes], bytes] | None) -> None:
    parent = next(path for path in pristine if path.name == "notes").parents[1]
    run_dir, damaged = parent / "fuzzed", parent / "fuzzed" / name
    expected = {path: data for path, data in pristine.items() if path != damaged}
    damaged.unlink()
    try:
        if damage is not None:
            expected[damaged] = damage(pristine[damaged])
            damaged.write_bytes(expected[damaged])
        look_at_everything(run_dir, damaged)
        assert contents(parent) == expected
        for file in (Ledger(run_dir), MetricsFile(run_dir), EpisodeFiles(run_dir)):  # as a resumed run does
            with one_line():
                file.truncate(2)
        assert all(
            (path in pristine and path.is_relative_to(run_dir)) or path.name == "notes" for path in contents(parent)
        )
    finally:
        for path, data in pristine.items():
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
