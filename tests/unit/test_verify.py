"""`spiral verify`: a run as it should be is sound, and each way to lose or repeat a match is a fault that names it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spiral.cli.main import app
from spiral.errors import UserError
from spiral.learn.weights import checkpoint
from spiral.monitor.ledger import Ledger
from spiral.storage.episode_files import EpisodeFiles
from spiral.storage.weight_files import checksum
from spiral.verify import verify
from tests.builders import episode
from tests.run_directory import write_learner, write_run, write_step


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A complete run of 4 steps with checkpoints of steps 2 and 4."""
    return write_run(tmp_path / "x", 4, checkpoints=(2, 4))


def faults(run_dir: Path) -> list[str]:
    """The faults, without the path of the run directory."""
    return [fault.removeprefix(f"{run_dir}/") for fault in verify(run_dir).faults]


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def drop_line(path: Path, number: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:number] + lines[number + 1 :]))


def save(run_dir: Path, step: int, next_match: int, still_open: list[int], **other: Any) -> None:
    """Replace the checkpoint of a step by one with another state."""
    state = {"step": step, "version": step, "schedule": {"next": next_match, "open": still_open}, **other}
    checkpoint.save(run_dir, state, (run_dir / "config.yaml").read_text(), write_learner, keep_last=9)


# --- sound runs ------------------------------------------------------------------------------------------------------


def test_a_complete_run_is_sound(run_dir: Path) -> None:
    verdict = verify(run_dir)
    assert verdict.faults == ()
    assert str(verdict) == (
        f"{run_dir}: sound: 4 steps, 16 matches trained once each, 4 void, versions 0-4 without a gap, "
        "2 checkpoints and 4 episode files intact"
    )


def test_a_run_without_steps_is_sound(tmp_path: Path) -> None:
    verdict = verify(write_run(tmp_path / "x", 0))
    assert (verdict.faults, verdict.num_steps, verdict.version) == ((), 0, 0)


def test_a_run_without_checkpoints_is_sound(tmp_path: Path) -> None:
    assert faults(write_run(tmp_path / "x", 3)) == []


def test_a_run_that_was_killed_after_its_newest_checkpoint_is_sound(run_dir: Path) -> None:
    write_step(run_dir, 5)
    write_step(run_dir, 6)
    drop_line(run_dir / "metrics.jsonl", 6)  # step 6: the row is written last
    for step in (5, 6):  # episodes are written in the background
        EpisodeFiles(run_dir).path(step).unlink()
    with (run_dir / "ledger.jsonl").open("a") as file:
        file.write('{"step": 7, "vers')
    assert faults(run_dir) == []


def test_a_row_that_the_newest_checkpoint_holds_may_be_missing(run_dir: Path) -> None:
    save(run_dir, 4, 22, [20, 21], row={"train/loss": 0.1})
    drop_line(run_dir / "metrics.jsonl", 4)
    assert faults(run_dir) == []


def test_pruned_episodes_are_no_fault(tmp_path: Path) -> None:
    verdict = verify(write_run(tmp_path / "x", 5, checkpoints=(5,), keep=2))
    assert (verdict.faults, verdict.num_episode_files) == ((), 2)


def test_matches_may_end_out_of_order(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "x", 0)
    ledger = Ledger(run_dir)
    ledger.append(1, 1, [0, 3], [])
    ledger.append(2, 2, [1, 4], [2])
    EpisodeFiles(run_dir).write(1, [episode(0), episode(3)])
    EpisodeFiles(run_dir).write(2, [episode(1), episode(4)])
    rewrite(
        run_dir / "metrics.jsonl", "\n", "\n" + '{"step": 1, "policy_version": 1}\n{"step": 2, "policy_version": 2}\n'
    )
    save(run_dir, 2, 6, [5])
    assert faults(run_dir) == []


# --- matches ---------------------------------------------------------------------------------------------------------


def test_a_match_that_was_trained_on_twice(run_dir: Path) -> None:
    rewrite(run_dir / "ledger.jsonl", "[[10, 13]]", "[[7, 8], [10, 13]]")
    assert faults(run_dir) == [
        "ledger.jsonl: matches 7-8: trained on in step 2 and trained on in step 3",
        "episodes/step_000003.parquet: matches 7-8: missing, although in the ledger",
    ]


def test_a_match_that_was_trained_on_and_is_void(run_dir: Path) -> None:
    rewrite(run_dir / "ledger.jsonl", '"void": [14]', '"void": [12, 14]')
    assert faults(run_dir) == ["ledger.jsonl: match 12: trained on in step 3 and void in step 3"]


def test_a_match_that_was_skipped(run_dir: Path) -> None:
    rewrite(run_dir / "ledger.jsonl", '"void": [14]', '"void": []')
    assert faults(run_dir) == [
        "checkpoints/step_000004: match 14: skipped: neither trained on nor void up to step 4, and not open"
    ]


def test_matches_that_a_checkpoint_lost_from_its_schedule(run_dir: Path) -> None:
    save(run_dir, 4, 30, [21, 25])
    assert faults(run_dir) == [
        "checkpoints/step_000004: matches 20, 22-24, 26-29: skipped: "
        "neither trained on nor void up to step 4, and not open"
    ]


def test_a_match_that_was_void_only_after_the_checkpoint_was_skipped(run_dir: Path) -> None:
    save(run_dir, 4, 22, [20])
    write_step(run_dir, 5)
    rewrite(run_dir / "ledger.jsonl", '"void": [24]', '"void": [21]')
    assert "checkpoints/step_000004: match 21: skipped" in faults(run_dir)[1]


def test_a_match_that_is_open_although_it_was_trained_on(run_dir: Path) -> None:
    save(run_dir, 4, 22, [16, 20, 21])
    assert faults(run_dir) == ["checkpoints/step_000004: match 16: open, although trained on or void up to step 4"]


def test_a_match_that_was_trained_on_before_it_was_issued(run_dir: Path) -> None:
    save(run_dir, 4, 19, [])
    assert faults(run_dir) == ["checkpoints/step_000004: match 19: trained on or void up to step 4, but never issued"]


# --- steps and versions ----------------------------------------------------------------------------------------------


def test_a_step_that_is_missing_in_the_ledger(run_dir: Path) -> None:
    drop_line(run_dir / "ledger.jsonl", 1)
    assert faults(run_dir) == [
        "ledger.jsonl: step 3 comes after step 1",
        "checkpoints/step_000004: matches 5-9: skipped: neither trained on nor void up to step 4, and not open",
        "metrics.jsonl: step 2: not in the ledger",
        "episodes: step 2: not in the ledger",
    ]


def test_a_policy_version_that_was_left_out(run_dir: Path) -> None:
    rewrite(run_dir / "ledger.jsonl", '"version": 3', '"version": 2')
    assert faults(run_dir) == [
        "ledger.jsonl: step 3: policy version 2 comes after 2",
        "ledger.jsonl: step 4: policy version 4 comes after 2",
        "metrics.jsonl: step 3: policy version 3, in the ledger 2",
    ]


def test_a_checkpoint_ahead_of_the_ledger(run_dir: Path) -> None:
    drop_line(run_dir / "ledger.jsonl", 3)
    assert "checkpoints/step_000004: the ledger has no step 4 with policy version 4" in faults(run_dir)


def test_a_checkpoint_of_another_policy_version(run_dir: Path) -> None:
    save(run_dir, 4, 22, [20, 21], version=9)
    assert faults(run_dir) == ["checkpoints/step_000004: the ledger has no step 4 with policy version 9"]


def test_rows_that_are_missing_twice_or_unknown(run_dir: Path) -> None:
    path = run_dir / "metrics.jsonl"
    drop_line(path, 2)
    assert faults(run_dir) == ["metrics.jsonl: step 2: missing, although in the ledger"]
    with path.open("a") as file:
        file.write('{"step": 4, "policy_version": 4}\n{"step": 9, "policy_version": 9}\n{"step": 1.5}\n')
    assert faults(run_dir) == [
        "metrics.jsonl: 1 row whose step is not a whole number",
        "metrics.jsonl: step 4 comes after step 4",
        "metrics.jsonl: step 2: missing, although in the ledger",
        "metrics.jsonl: step 9: not in the ledger",
    ]


def test_the_last_row_may_be_missing_only_after_the_newest_checkpoint(run_dir: Path) -> None:
    drop_line(run_dir / "metrics.jsonl", 4)
    assert faults(run_dir) == ["metrics.jsonl: step 4: missing, although in the ledger"]


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_past_self_that_a_checkpoint_needs_is_damaged_or_missing(run_dir: Path) -> None:
    adapters = [run_dir / "league" / f"policy@{version}" for version in (0, 2)]
    for adapter in adapters:
        adapter.mkdir(parents=True)
        (adapter / "adapter_model.safetensors").write_bytes(b"a")
    past = [{"version": version, "checksum": checksum(adapters[0])} for version in (0, 2)]
    save(run_dir, 4, 22, [20, 21], past=past)
    assert faults(run_dir) == []
    (adapters[0] / "adapter_model.safetensors").write_bytes(b"b")
    shutil.rmtree(adapters[1])
    found = faults(run_dir)
    assert len(found) == 2
    for version, fault in zip((0, 2), found, strict=True):
        assert fault.startswith(f"checkpoints/step_000004: past self: policy version {version} in ")
        assert "is damaged" in fault


def test_an_episode_file_with_other_matches(run_dir: Path) -> None:
    EpisodeFiles(run_dir).write(2, [episode(k) for k in (5, 6, 8, 9)])
    assert faults(run_dir) == [
        "episodes/step_000002.parquet: match 7: missing, although in the ledger",
        "episodes/step_000002.parquet: match 9: not in the ledger for step 2",
    ]


def test_episodes_that_are_missing_in_the_middle(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "x", 5, checkpoints=(5,), keep=4)
    EpisodeFiles(run_dir).path(3).unlink()
    assert faults(run_dir) == ["episodes: step 3: missing, although in the ledger"]


def test_old_episodes_that_are_missing_though_all_are_kept(run_dir: Path) -> None:
    for step in (1, 2):
        EpisodeFiles(run_dir).path(step).unlink()
    assert faults(run_dir) == ["episodes: steps 1-2: missing, although in the ledger"]


def test_a_run_that_keeps_episodes_and_has_none(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "x", 3, checkpoints=(3,), keep=2)
    shutil.rmtree(run_dir / "episodes")
    assert faults(run_dir) == ["episodes: steps 1-3: missing, although in the ledger"]


def flip(path: Path) -> None:
    """Invert a byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "inflict"),
    [
        ("episodes/step_000002.parquet", flip),
        ("episodes/step_000002.parquet", lambda path: path.write_bytes(b"")),
        ("checkpoints/step_000002/learner.pt", flip),
        ("checkpoints/step_000002/state.json", flip),
        ("checkpoints/step_000002/model.safetensors", Path.unlink),
        ("checkpoints/step_000002/files.json", Path.unlink),
        ("config.yaml", lambda path: path.write_text("steps: -1")),
        ("ledger.jsonl", lambda path: rewrite(path, '"step": 2', '"step": x')),
    ],
)
def test_a_damaged_file_is_named_in_one_line(run_dir: Path, name: str, inflict: Callable[[Path], object]) -> None:
    inflict(run_dir / name)
    (fault,) = verify(run_dir).faults
    assert all(part in fault for part in Path(name).parts)
    assert "\n" not in fault


def test_a_damaged_ledger_does_not_hide_other_damage(run_dir: Path) -> None:
    rewrite(run_dir / "ledger.jsonl", '"step": 2', '"step": x')
    flip(run_dir / "checkpoints/step_000004/learner.pt")
    assert [fault.split(":")[0] for fault in faults(run_dir)] == ["ledger.jsonl", "checkpoints/step_000004"]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_line_for_a_sound_run(run_dir: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(run_dir)])
    assert (done.exit_code, done.stdout) == (0, f"{verify(run_dir)}\n")


def test_the_command_prints_a_line_per_fault(run_dir: Path) -> None:
    rewrite(run_dir / "ledger.jsonl", '"void": [14]', '"void": [12]')
    done = CliRunner().invoke(app, ["verify", str(run_dir)])
    assert (done.exit_code, done.stdout.splitlines()) == (1, list(verify(run_dir).faults))
    assert len(verify(run_dir).faults) == 2


@pytest.mark.parametrize("sound", [True, False])
def test_the_command_prints_json(run_dir: Path, sound: bool) -> None:
    if not sound:
        flip(run_dir / "checkpoints/step_000004/learner.pt")
    done = CliRunner().invoke(app, ["verify", str(run_dir), "--json"])
    report = json.loads(done.stdout)
    assert (done.exit_code, report["sound"], len(report["faults"])) == (0 if sound else 1, sound, 0 if sound else 1)
    assert (report["num_steps"], report["num_trained"], report["num_void"], report["version"]) == (4, 16, 4, 4)
    assert report["num_checkpoints"] == (2 if sound else 1)


@pytest.mark.parametrize("name", ["none", "foreign"])
def test_what_is_no_run_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "ledger.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"is not a run directory: it holds no config\.yaml$"):
        verify(tmp_path / name)
