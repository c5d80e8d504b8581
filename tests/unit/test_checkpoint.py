"""Checkpoints are complete or absent."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spiral.learn.weights.checkpoint import damage, list_checkpoints, make_rows_folder, newest_sound, read_state, save
from spiral.learn.weights.export import export
from spiral.storage.atomic import full_disk_is_oserror


def write_weights(directory: Path) -> None:
    (directory / "model").mkdir()
    (directory / "model" / "weights").write_text("w")


def full_disk(directory: Path) -> None:
    (directory / "weights").write_text("half of th")
    raise OSError(errno.ENOSPC, "No space left on device")


def state(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "version": step, "wandb_run_id": None, "schedule": {"next": 9, "open": [4, 7]}, **more}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_files_of_the_learner_and_the_state(tmp_path: Path) -> None:
    directory = save(tmp_path, state(100), "steps: 1", write_weights, keep_last=2)
    assert directory == tmp_path / "checkpoints" / "step_000100"
    assert (directory / "model" / "weights").read_text() == "w"
    assert read_state(directory) == state(100)


def test_checkpoints_are_listed_oldest_first(tmp_path: Path) -> None:
    for step in (20, 100, 3):
        save(tmp_path, state(step), "steps: 1", write_weights, keep_last=9)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_000003", "step_000020", "step_000100"]


def test_a_run_without_checkpoints_lists_none(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == []


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, state(step), "steps: 1", write_weights, keep_last=2)
    assert names(tmp_path / "checkpoints") == ["step_000030", "step_000040"]


def test_keep_every_keeps_checkpoints_of_every_so_many_steps(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, state(step), "steps: 1", write_weights, keep_last=1, keep_every=20)
    assert names(tmp_path / "checkpoints") == ["step_000020", "step_000040", "step_000050"]


def truncate(directory: Path) -> None:
    (directory / "model" / "weights").write_text("")


def flip_a_bit(directory: Path) -> None:
    (directory / "model" / "weights").write_text("v")


def remove_a_file(directory: Path) -> None:
    (directory / "model" / "weights").unlink()


def truncate_the_state(directory: Path) -> None:
    (directory / "state.json").write_text('{"step": 2')


def change_a_number_of_the_state(directory: Path) -> None:
    (directory / "state.json").write_text((directory / "state.json").read_text().replace("7", "8"))


def rewrite_files(text: str) -> Callable[[Path], None]:
    return lambda directory: (directory / "files.json").write_text(text) and None


@pytest.mark.parametrize(
    ("inflict", "reason"),
    [
        (truncate, "model/weights has 0 bytes, expected 1"),
        (flip_a_bit, "model/weights has been changed since it was written"),
        (remove_a_file, "model/weights is missing"),
        (truncate_the_state, "state.json has 10 bytes, expected"),
        (change_a_number_of_the_state, "state.json has been changed since it was written"),
        (rewrite_files('{"model'), "JSONDecodeError"),
        (rewrite_files("[1]"), "files.json does not list state.json"),
        (rewrite_files("{}"), "files.json does not list state.json"),
        (rewrite_files('{"state.json": 1}'), "files.json is damaged at 'state.json'"),
        (rewrite_files('{"state.json": {"bytes": 1}}'), "files.json is damaged at 'state.json'"),
        (rewrite_files('{"state.json": {"bytes": 1, "sha256": ""}}'), "state.json has 113 bytes, expected 1"),
        (rewrite_files("[" * 100_000), "RecursionError"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, inflict: Callable[[Path], None], reason: str
) -> None:
    sound = save(tmp_path, state(10), "steps: 1", write_weights, keep_last=9)
    damaged = save(tmp_path, state(20), "steps: 1", write_weights, keep_last=9)
    assert newest_sound(tmp_path) == damaged
    inflict(damaged)
    assert reason in str(damage(damaged))
    warnings: list[str] = []
    assert newest_sound(tmp_path, warnings.append) == sound
    assert len(warnings) == 1
    assert str(damaged) in warnings[0]
    assert reason in warnings[0]


def test_without_an_undamaged_checkpoint_there_is_none_to_resume_from(tmp_path: Path) -> None:
    truncate(save(tmp_path, state(10), "steps: 1", write_weights, keep_last=9))
    assert newest_sound(tmp_path) is None


def write_model(directory: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "learner.pt"):
        (directory / name).write_text(name)
    (directory / "reference").mkdir()
    (directory / "reference" / "model.safetensors").write_text("old")


def test_an_export_is_the_model_and_the_config(tmp_path: Path) -> None:
    save(tmp_path, state(10), "steps: 1", write_model, keep_last=9)
    newest = save(tmp_path, state(20), "steps: 1", write_model, keep_last=9)
    assert export(tmp_path, tmp_path / "out") == newest
    assert names(tmp_path / "out") == ["config.json", "config.yaml", "model.safetensors", "tokenizer.json"]
    assert (tmp_path / "out" / "config.yaml").read_text() == "steps: 1"
    assert export(tmp_path, tmp_path / "older", step=10).name == "step_000010"


def test_errors_of_an_export_state_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no checkpoint; it has: none"):
        export(tmp_path, tmp_path / "out")
    directory = save(tmp_path, state(10), "steps: 1", write_model, keep_last=9)
    with pytest.raises(ValueError, match="has no checkpoint of step 7; it has: 10"):
        export(tmp_path, tmp_path / "out", step=7)
    with pytest.raises(ValueError, match="exists; choose another directory"):
        export(tmp_path, tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="there is nothing to merge"):
        export(tmp_path, tmp_path / "out", merged=True)
    (directory / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: config.json has 1 bytes, expected 11"):
        export(tmp_path, tmp_path / "out")


def test_a_second_checkpoint_of_a_step_replaces_the_first(tmp_path: Path) -> None:
    save(tmp_path, state(10, version=1), "steps: 1", write_weights, keep_last=2)
    directory = save(tmp_path, state(10, version=2), "steps: 1", lambda directory: None, keep_last=2)
    assert read_state(directory)["version"] == 2
    assert names(directory) == ["config.yaml", "files.json", "state.json"]


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_partial_one(tmp_path: Path) -> None:
    earlier = save(tmp_path, state(10), "steps: 1", write_weights, keep_last=1)
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path, state(20), "steps: 1", full_disk, keep_last=1)
    assert names(tmp_path / "checkpoints") == ["step_000010"]
    assert read_state(earlier) == state(10)
    assert (earlier / "model" / "weights").read_text() == "w"


def test_a_full_disk_leaves_the_earlier_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    earlier = save(tmp_path, state(10), "steps: 1", write_weights, keep_last=1)
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path, state(10), "steps: 1", full_disk, keep_last=1)
    assert (earlier / "model" / "weights").read_text() == "w"


def test_leftovers_of_killed_processes_are_not_checkpoints_and_are_removed(tmp_path: Path) -> None:
    for leftover in ("step_000015.17.tmp", "step_000020.18.tmp", "step_000010.rows.tmp"):
        (tmp_path / "checkpoints" / leftover).mkdir(parents=True)
        (tmp_path / "checkpoints" / leftover / "state.json").write_text("{}")
    assert list_checkpoints(tmp_path) == []
    directory = save(tmp_path, state(20), "steps: 1", write_weights, keep_last=1)
    assert names(tmp_path / "checkpoints") == ["step_000020"]
    assert names(directory) == ["config.yaml", "files.json", "model", "state.json"]


def test_what_the_ranks_write_for_this_checkpoint_is_not_a_leftover(tmp_path: Path) -> None:
    make_rows_folder(tmp_path, 20)
    save(tmp_path, state(20), "steps: 1", write_weights, keep_last=1)
    assert names(tmp_path / "checkpoints") == ["step_000020", "step_000020.rows.tmp"]


def test_only_leftovers_of_checkpoints_are_removed(tmp_path: Path) -> None:
    for other in ("notes", "step_000015.tmp", "best.17.tmp"):
        (tmp_path / "checkpoints" / other).mkdir(parents=True)
    save(tmp_path, state(20), "steps: 1", write_weights, keep_last=1)
    assert names(tmp_path / "checkpoints") == ["best.17.tmp", "notes", "step_000015.tmp", "step_000020"]


def test_a_directory_without_state_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_000020").mkdir(parents=True)
    assert list_checkpoints(tmp_path) == []


def test_a_checkpoint_is_not_listed_while_it_is_written(tmp_path: Path) -> None:
    seen = []

    def write(directory: Path) -> None:
        seen.append((directory.name, list_checkpoints(tmp_path)))

    save(tmp_path, state(10), "steps: 1", write, keep_last=1)
    assert seen == [(f"step_000010.{os.getpid()}.tmp", [])]


def test_a_full_disk_is_an_oserror_whichever_library_reports_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), full_disk_is_oserror(tmp_path):
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter: file write failed")
    with pytest.raises(KeyError), full_disk_is_oserror(tmp_path):
        raise KeyError("not about disks")


def test_the_config_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    directory = save(tmp_path, state(10), "steps: 7", write_weights, keep_last=1)
    assert (directory / "config.yaml").read_text() == "steps: 7"
