"""W&B as a view of a run's files: uploads, sink and workspace, with the real client and a server on loopback."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
import yaml

from spiral.config import Config, UserError, load_config, override
from spiral.monitor.files import EVALUATIONS, MetricsFile
from spiral.monitor.sinks import Sinks
from spiral.monitor.wandb import report, workspace
from spiral.monitor.wandb.identity import Identity, sole_writer
from spiral.monitor.wandb.panels import outline, sections
from spiral.monitor.wandb.upload import upload
from spiral.storage.episode_files import EpisodeFiles
from tests.builders import episode, sampled
from tests.run_directory import write_run, write_step
from tests.wandb_server import ENTITY, KEY, StoredRun, WandbServer

MEDIA = ("Weave", "Media Browser")
"""The view types of tables and pages, which have no x axis."""


@pytest.fixture(scope="module")
def wandb_server() -> Iterator[WandbServer]:
    """A stand-in for W&B's server. One for all tests: wandb keeps the address for as long as the process lives.

    wandb's own service process is found through an environment variable: it must not become that of other tests' runs.
    """
    with WandbServer() as server:
        yield server
        wandb.teardown()
    assert server.unknown == [], "wandb asks the server for something that it does not know"


@pytest.fixture
def wandb_online(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    """The server, and variables with which wandb talks to it."""
    for name, value in wandb_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE")  # a key is enough for a run to be online
    return wandb_server


def run_dir(tmp_path: Path, num_steps: int = 4, checkpoints: tuple[int, ...] = (2, 4)) -> Path:
    """A run whose evaluations at steps 0, 2 and 4 have transcripts, and NashConvs of 0.9, 0.2 and 0.4."""
    directory = write_run(tmp_path / "run", num_steps, checkpoints)
    for step, nash_conv in ((0, 0.9), (2, 0.2), (4, 0.4)):
        if step <= num_steps:
            EpisodeFiles(directory, EVALUATIONS).write(step, [episode(step, [sampled(0, text=f"bet {step}")])])
            rewrite(directory, step, {"eval/kuhn_poker/nash_conv": nash_conv})
    return directory


def rewrite(directory: Path, step: int, changes: dict[str, float]) -> None:
    """Change one row of metrics.jsonl."""
    table = [row | (changes if row["step"] == step else {}) for row in MetricsFile(directory).read()]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))


def stored(server: WandbServer, directory: Path) -> StoredRun:
    return server.runs[Identity(directory).run_id]


def config_of(directory: Path, **changes: Any) -> Config:
    given = {"run.dir": str(directory.parent), "run.name": directory.name, **changes}
    return override(load_config(directory / "config.yaml"), given)


def test_an_upload_adds_what_is_missing_and_a_second_one_nothing(tmp_path: Path, wandb_online: WandbServer) -> None:
    directory = run_dir(tmp_path)
    assert upload(directory).num_rows == 5
    run = stored(wandb_online, directory)
    assert run.steps == [row["_step"] for row in run.history] == [0, 1, 2, 3, 4]
    assert [row["train/loss"] for row in run.history[1:]] == [0.1] * 4
    assert {step: table["data"][0][5] for step, table in run.tables().items()} == {0: "bet 0", 2: "bet 2", 4: "bet 4"}
    num_artifacts = len(wandb_online.artifacts)

    assert upload(directory).num_rows == 0
    assert run.steps == [0, 1, 2, 3, 4]
    assert len(wandb_online.artifacts) == num_artifacts
    write_step(directory, 5)
    assert upload(directory).num_rows == 1
    assert run.steps == [0, 1, 2, 3, 4, 5]
    assert {key: run.summary[key] for key in ("step", "eval/kuhn_poker/nash_conv")} == {
        "step": 5,
        "eval/kuhn_poker/nash_conv": 0.4,
    }


def test_media_that_a_killed_process_could_not_send_arrive_with_the_next_upload(
    tmp_path: Path, wandb_online: WandbServer
) -> None:
    directory = run_dir(tmp_path)
    upload(directory)
    run = stored(wandb_online, directory)
    media = {name: content for name, content in run.files.items() if name.startswith("media/")}
    assert len(media) >= 6, "a table and a page of each of three evaluations"
    for name in media:
        del run.files[name]
    assert upload(directory).num_rows == 0
    assert {name: run.files.get(name) for name in media} == media


def test_a_new_wandb_run_can_be_asked_for(tmp_path: Path, wandb_online: WandbServer) -> None:
    directory = run_dir(tmp_path, 2, ())
    upload(directory)
    first = stored(wandb_online, directory)
    assert upload(directory, as_new=True).num_rows == 3
    assert stored(wandb_online, directory).id != first.id
    assert stored(wandb_online, directory).steps == first.steps == [0, 1, 2]


def test_artifacts_are_config_environment_and_checkpoints_by_reference(
    tmp_path: Path, wandb_online: WandbServer
) -> None:
    directory = run_dir(tmp_path)
    (directory / "environment.json").write_text("{}")
    upload(directory)
    run_id = Identity(directory).run_id
    by_name: dict[str, list[Any]] = {}
    for artifact in wandb_online.artifacts:
        by_name.setdefault(artifact.name, []).append(artifact)
    (config,) = by_name[f"config-{run_id}"]
    assert set(config.manifest["contents"]) == {"config.yaml", "environment.json"}
    second, fourth = by_name[f"checkpoint-{run_id}"]
    assert (second.aliases, fourth.aliases) == ({"step-2", "best"}, {"step-4", "latest"})
    assert second.metadata == {"step": 2, "eval/kuhn_poker/nash_conv": 0.2}
    where = f"file://{directory}/checkpoints/step_000002/model.safetensors"
    assert second.manifest["contents"]["model.safetensors"]["ref"] == where
    assert {artifact.state for artifact in wandb_online.artifacts} == {"COMMITTED"}


def test_the_config_says_where_and_how_the_run_is_listed(tmp_path: Path, wandb_online: WandbServer) -> None:
    directory = run_dir(tmp_path, 1, ())
    text = (directory / "config.yaml").read_text()
    keys = "group: seeds, tags: [paper, kuhn], job_type: ablation, notes: no baseline"
    (directory / "config.yaml").write_text(f"{text}wandb: {{{keys}}}\nrun: {{name: kuhn-seed3}}\n")
    upload(directory)
    run = stored(wandb_online, directory)
    assert run.fields == {
        "displayName": "kuhn-seed3",
        "groupName": "seeds",
        "tags": ["paper", "kuhn"],
        "jobType": "ablation",
        "notes": "no baseline",
    }
    assert run.config["learner"]["value"]["baseline_decay"] == 0.95


def test_two_processes_do_not_write_one_wandb_run(tmp_path: Path, wandb_online: WandbServer) -> None:
    directory = run_dir(tmp_path, 1, ())
    with sole_writer(directory), pytest.raises(UserError, match="another process is writing the W&B run"):
        upload(directory)


def sinks_of(directory: Path, said: list[str], **changes: Any) -> Sinks:
    return Sinks(config_of(directory, **{"monitor.sinks": ["wandb"], **changes}), {}, said.append)


def test_a_run_brings_wandb_to_what_its_files_say_and_then_goes_on(tmp_path: Path, wandb_online: WandbServer) -> None:
    """At its online start: W&B has the rows up to 2, the files those up to 4. It also creates the workspace, once."""
    directory = run_dir(tmp_path, 2)
    upload(directory)
    write_step(directory, 3)
    write_step(directory, 4)
    said: list[str] = []
    sinks = sinks_of(directory, said)
    write_step(directory, 5)
    sinks.wake()
    sinks.alarm(5, "alarm: train/kl is 12")
    sinks.close(failed=False)
    run = stored(wandb_online, directory)
    assert run.steps == [0, 1, 2, 3, 4, 5]
    assert [alert["text"] for alert in run.alerts] == ["alarm: train/kl is 12"]
    assert said == []
    assert Identity(directory).workspace
    sinks_of(directory, said).close(failed=False)
    names = [view["name"] for view in wandb_online.views.values()]
    assert len(names) == len(set(names)), "one view per set of games"


def test_a_server_that_hangs_or_fails_delays_nothing_and_gets_every_row_when_it_is_back(
    tmp_path: Path, wandb_online: WandbServer
) -> None:
    """It hangs from the start, is back, and then fails for a while."""
    directory = run_dir(tmp_path, 0, ())
    wandb_online.state = "hangs"
    said: list[str] = []
    durations_s = []
    try:
        sinks = sinks_of(directory, said)
        for step in range(1, 31):
            if step == 10:
                wandb_online.come_back()
            if step == 20:
                wandb_online.state = "fails"
            write_step(directory, step)
            began_s = time.monotonic()
            sinks.wake()
            sinks.state_dict()
            durations_s.append(time.monotonic() - began_s)
            time.sleep(0.2)
    finally:
        wandb_online.come_back()
    sinks.close(failed=False)
    assert median(durations_s) < 0.05
    assert max(durations_s) < 1, "where other processes take the cores as well"
    assert stored(wandb_online, directory).steps == list(range(31))


def test_a_run_ends_though_the_server_hangs_and_an_upload_brings_the_rest(
    tmp_path: Path, wandb_online: WandbServer
) -> None:
    directory = run_dir(tmp_path, 3, ())
    said: list[str] = []
    wandb_online.state = "hangs"
    try:
        sinks = sinks_of(directory, said, **{"monitor.close_timeout_s": 2.0})
        began_s = time.monotonic()
        sinks.close(failed=False)
        assert time.monotonic() - began_s < 5
    finally:
        wandb_online.come_back()
    assert said == [
        "warning: monitor.sinks 'wandb' was not ready in time, and may lack rows",
        f"to bring W&B up to date: spiral upload {directory}",
    ]
    deadline_s = time.monotonic() + 60
    while True:  # until the thread, which is still there in this process, gives up its W&B run
        try:
            upload(directory)
            break
        except UserError:
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
    assert stored(wandb_online, directory).steps == [0, 1, 2, 3]


def test_an_offline_run_says_how_to_upload_and_its_upload_is_complete(
    tmp_path: Path, wandb_online: WandbServer
) -> None:
    """Whatever W&B's own offline files hold: here two segments, the first of them with rows that are played again."""
    directory = run_dir(tmp_path, 3, ())
    said: list[str] = []
    sinks_of(directory, said, **{"wandb.mode": "offline"}).close(failed=True)
    MetricsFile(directory).truncate(2)
    write_step(directory, 3)
    sinks_of(directory, said, **{"wandb.mode": "offline"}).close(failed=False)
    assert said == [f"W&B is offline; to upload: spiral upload {directory}"] * 2
    segments = list((directory / "wandb").glob("offline-run-*/*.wandb"))
    assert {path.stem for path in segments} == {f"run-{Identity(directory).run_id}"}
    assert Identity(directory).run_id not in wandb_online.runs
    upload(directory)
    assert stored(wandb_online, directory).steps == [0, 1, 2, 3]


def test_the_key_is_in_no_file(tmp_path: Path, wandb_online: WandbServer) -> None:
    directory = run_dir(tmp_path)
    sinks_of(directory, []).close(failed=False)
    sinks_of(directory, [], **{"wandb.mode": "offline"}).close(failed=False)
    upload(directory)
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    received = [data for run in wandb_online.runs.values() for data in run.files.values()]
    assert not any(KEY.encode() in data for data in received)
    assert KEY not in json.dumps([[run.config, run.history] for run in wandb_online.runs.values()])


def test_a_workspace_is_saved_loaded_and_updated_as_one_view(tmp_path: Path, wandb_online: WandbServer) -> None:
    config = load_config({"steps": 1, "model": {"name": "builtin/tiny"}, "games": [{"id": "nim"}, {"id": "pig"}]})
    before = set(wandb_online.views)
    url = workspace.save(config)
    loaded = ws.Workspace.from_url(url)
    assert [section.name for section in loaded.sections] == [section.name for section in sections(config)]
    ids = [panel._id for section in loaded.sections for panel in section.panels]
    assert len(set(ids)) == len(ids)

    loaded.sections = [
        ws.Section(name="Mine"),
        *loaded.sections[1:],
    ]  # the user adds a section, and removes one of ours
    loaded.runset_settings.query = "seed"
    loaded.save()
    assert workspace.save(config) == workspace.save(config, url) == url
    (view,) = set(wandb_online.views) - before
    again = ws.Workspace.from_url(url)
    assert [section.name for section in again.sections] == [*(s.name for s in sections(config)), "Mine"]
    assert again.runset_settings.query == "seed"
    assert [panel._id for section in again.sections for panel in section.panels] == ids

    spec = wandb_online.views[view]["spec"]
    assert workspace.create_if_missing(config, ENTITY) == url
    assert wandb_online.views[view]["spec"] == spec, "a run leaves a workspace that is there as it is"


def test_a_report_is_saved_loaded_and_updated_as_one_view(tmp_path: Path, wandb_online: WandbServer) -> None:
    tree = {"steps": 1, "model": {"name": "builtin/tiny"}, "games": [{"id": "nim"}]}
    run_dirs = [tmp_path / name for name in ("first", "second")]
    for run_dir in run_dirs:
        run_dir.mkdir()
        (run_dir / "config.yaml").write_text(yaml.safe_dump(tree))
    before = set(wandb_online.views)
    url = report.save(run_dirs)
    (view,) = set(wandb_online.views) - before
    assert wandb_online.views[view]["displayName"] == "SPIRAL: first, second"
    loaded = wr.Report.from_url(url)
    grids = [block for block in loaded.blocks if isinstance(block, wr.PanelGrid)]
    ids = [Identity(run_dir).run_id for run_dir in run_dirs]
    assert [grid.runsets[0].filters for grid in grids] == [f'Metric("ID") in {ids}'] * len(grids)
    num_panels = [len(section.panels) for section in sections(load_config(tree))]
    assert [len(grid.panels) for grid in grids] == [1, *num_panels]

    # The user writes something, and removes a grid and another with its heading.
    loaded.blocks = [wr.P("What we found"), *(b for b in loaded.blocks[:-2] if b is not grids[1])]
    loaded.save()
    assert report.save(run_dirs) == url
    again = wr.Report.from_url(url)
    headings = [block.text for block in again.blocks if isinstance(block, wr.H2)]
    assert headings == ["Settings", *(section.name for section in sections(load_config(tree)))]
    assert [len(b.panels) for b in again.blocks if isinstance(b, wr.PanelGrid)] == [1, *num_panels]
    assert wr.P("What we found") in again.blocks
    assert report.save(run_dirs[1:]) != url, "other runs have another report"

    del wandb_online.views[view]
    assert report.save(run_dirs) not in (url, None), "a deleted report is created anew"


def test_a_report_about_runs_of_two_projects_is_refused(tmp_path: Path, wandb_online: WandbServer) -> None:
    for project in ("one", "two"):
        (tmp_path / project).mkdir()
        tree = {"steps": 1, "model": {"name": "builtin/tiny"}, "games": [{"id": "nim"}], "wandb": {"project": project}}
        (tmp_path / project / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"two has wandb.project=two, .*one has one: a W&B report is about one project"):
        report.save([tmp_path / "one", tmp_path / "two"])


def test_every_panel_has_the_step_on_its_x_axis(wandb_online: WandbServer) -> None:
    config = load_config("smoke")
    model = workspace.build(config, ENTITY)._to_model()
    panels = [p for s in model.spec.section.panel_bank_config.sections for p in s.panels if p.view_type not in MEDIA]
    assert len(panels) > 20
    assert {panel.config.x_axis for panel in panels} == {"step"}


def test_a_workspace_at_an_unknown_url_is_refused(wandb_online: WandbServer) -> None:
    with pytest.raises(UserError, match="W&B has no workspace at"):
        workspace.save(load_config("smoke"), f"{wandb_online.url}/{ENTITY}/spiral?nw=nosuchview1")


def test_the_outline_needs_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    text = outline(load_config("smoke"))
    assert "Strength\n  NashConv (0: equilibrium): eval/kuhn_poker/nash_conv\n" in text
    assert os.environ.get("WANDB_BASE_URL") is None


def test_a_run_with_gpus_has_a_panel_of_them() -> None:
    gpus = load_config("smoke", ["generators.gpus=1", "learner.gpus=1"])
    assert ("GPUs: busy share" in outline(gpus), "GPUs: busy share" in outline(load_config("smoke"))) == (True, False)
