"""Runs of the whole stack that report to W&B, which is a server on loopback: one W&B run, each step once."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spiral.config import Config, load_config
from spiral.monitor.files import EVALUATIONS
from spiral.monitor.wandb.panels import LEFT_OUT, Panel, sections
from spiral.storage.episode_files import EpisodeFiles
from tests.integration.conftest import ok, rows, spiral, start, wait_for_step, wait_until_gone
from tests.wandb_server import KEY, StoredRun, WandbServer

OPTIONS = ["steps=6", "checkpoint.every=2", "eval.every=2", "eval.pairs=5", "monitor.sinks=[wandb, tensorboard]"]
OWN = {"_step", "_runtime", "_timestamp", "_wandb"}
"""What wandb itself adds to a row."""


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


@pytest.fixture(scope="module")
def run_dir(server: WandbServer, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed online in the middle of a checkpoint interval, resumed offline, and uploaded twice."""
    parent = tmp_path_factory.mktemp("online")
    run_dir = parent / "smoke"
    online, offline = {**os.environ, **server.environment}, {**os.environ, "WANDB_MODE": "offline"}
    process = start("train", "smoke", f"run.dir={parent}", *OPTIONS, environment=online)
    try:
        wait_for_step(run_dir, process, 3, limit_s=600)
    finally:
        process.kill()
        process.wait()
    wait_until_gone(run_dir)
    done = ok(spiral("resume", str(run_dir), environment=offline))
    assert f"spiral upload {run_dir}" in done.stdout.replace("\n", "")
    (run_id,) = server.runs
    seen = len(server.runs[run_id].history)
    assert seen < 7, "the run was killed before its end"
    first, second = (ok(spiral("upload", str(run_dir), environment=online)) for _ in range(2))
    assert f"{7 - seen} rows uploaded" in first.stdout
    assert "0 rows uploaded" in second.stdout
    return run_dir


@pytest.fixture(scope="module")
def run(server: WandbServer, run_dir: Path) -> StoredRun:
    (run,) = server.runs.values()
    return run


@pytest.fixture(scope="module")
def config(run_dir: Path) -> Config:
    return load_config(run_dir / "config.yaml")


def test_wandb_has_one_run_with_each_step_once_in_order(server: WandbServer, run: StoredRun, run_dir: Path) -> None:
    assert run.steps == [row["_step"] for row in run.history] == list(range(7))
    assert [set(row) - OWN - {"transcripts", "matches"} for row in run.history] == [set(row) for row in rows(run_dir)]
    assert run.history[-1]["eval/kuhn_poker/nash_conv"] == rows(run_dir)[-1]["eval/kuhn_poker/nash_conv"]
    assert server.unknown == []


def test_transcripts_arrive_with_their_step(run: StoredRun, run_dir: Path) -> None:
    shown = run.tables()
    assert sorted(shown) == [0, 2, 4, 6]
    for step in (4, 6):
        played = EpisodeFiles(run_dir, EVALUATIONS).read(step)
        texts = [turn.text for episode in played for turn in episode.turns]
        assert [line[shown[step]["columns"].index("text")] for line in shown[step]["data"]] == texts


def test_matches_arrive_as_pages_without_scripts(run: StoredRun) -> None:
    (shown,) = [row["matches"] for row in run.history if row["_step"] == 6]
    assert shown["count"] == len(shown["html"]) > 0
    for page in shown["html"]:
        text = run.files[page["path"]].decode()
        assert "Content-Security-Policy" in text
        assert "<script" not in text


def test_checkpoints_are_artifacts_by_reference(server: WandbServer, run: StoredRun) -> None:
    checkpoints = [artifact for artifact in server.artifacts if artifact.name == f"checkpoint-{run.id}"]
    assert [artifact.metadata["step"] for artifact in checkpoints] == sorted({a.metadata["step"] for a in checkpoints})
    assert checkpoints[-1].aliases >= {"latest", "step-6"}
    assert sum("best" in artifact.aliases for artifact in checkpoints) <= 1
    entry = checkpoints[-1].manifest["contents"]["model.safetensors"]
    assert entry["ref"].startswith("file:///")
    (config,) = {a.id: a for a in server.artifacts if a.name == f"config-{run.id}"}.values()
    assert set(config.manifest["contents"]) == {"config.yaml", "environment.json"}


def panels_of(config: Config) -> list[Panel]:
    return [panel for section in sections(config) for panel in section.panels]


def test_every_panel_has_a_metric_of_the_run_and_every_metric_a_panel(run: StoredRun, config: Config) -> None:
    keys = {key for row in run.history for key in row} - OWN
    empty = [panel.title for panel in panels_of(config) if not any(panel.shows(key) for key in keys)]
    missing = [(panel.title, key) for panel in panels_of(config) for key in panel.metrics if key not in keys]
    assert (empty, missing) == ([], [])
    left_out = [Panel(title=reason, pattern=f"^({pattern})$") for pattern, reason in LEFT_OUT]
    assert [panel.title for panel in left_out if not any(panel.shows(key) for key in keys)] == []
    unseen = {key for key in keys if not any(panel.shows(key) for panel in [*panels_of(config), *left_out])}
    assert unseen == set(), "add them to spiral/monitor/wandb/panels.py: to a panel, or to LEFT_OUT"
    assert json.loads((Path(config.run_dir) / "wandb.json").read_text())["workspace"].startswith("http")


def test_the_workspace_was_created_by_the_run_and_is_updated_by_the_command(server: WandbServer, run_dir: Path) -> None:
    (view,) = server.views.values()
    environment = {**os.environ, **server.environment}
    url = json.loads((run_dir / "wandb.json").read_text())["workspace"]
    for source in (str(run_dir), "smoke"):
        assert ok(spiral("workspace", source, environment=environment)).stdout.strip() == url
    assert list(server.views) == [view["id"]]
    shown = ok(spiral("workspace", str(run_dir), "--dry-run")).stdout
    assert "Self-play health" in shown


def test_tensorboard_shows_each_step_once(run_dir: Path) -> None:
    reader = EventAccumulator(str(run_dir / "tensorboard"))
    reader.Reload()
    for key in ("train/loss", "game/textarena/TicTacToe-v0/draw_rate"):
        expected = [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in rows(run_dir) if key in row]
        assert [(event.step, event.value) for event in reader.Scalars(key)] == expected


def test_the_key_is_in_no_file_of_the_run(run_dir: Path) -> None:
    done = subprocess.run(["grep", "--recursive", "--files-with-matches", KEY, run_dir], capture_output=True, text=True)
    assert done.stdout == ""


def test_a_resumed_online_run_sends_what_is_missing_and_goes_on(
    server: WandbServer, run: StoredRun, run_dir: Path
) -> None:
    """Runs last: it adds steps to the run of the other tests."""
    ok(spiral("resume", str(run_dir), "steps=7", environment={**os.environ, "WANDB_MODE": "offline"}))
    ok(spiral("resume", str(run_dir), "steps=8", environment={**os.environ, **server.environment}))
    assert run.steps == list(range(9))
