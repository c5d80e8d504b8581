"""`spiral doctor`: what it finds in a config, how it gets a report of this machine, and what it shows."""

import json
import math
import socket
import stat
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from spiral.doctor import facts as gathering
from spiral.doctor.examine import Diagnosis, check_config, check_wandb, examine
from spiral.doctor.facts import Gpu, Question, gather, sizes_of
from spiral.doctor.findings import fault, grouped, healthy, named, note, ok
from spiral.doctor.needs import ROOM, Needs
from spiral.doctor.probe import Endpoint, Probe
from spiral.doctor.report import as_json, show
from spiral.machine import GIB, existing_parent
from spiral.network import interfaces, listen
from tests.node_reports import KEY, config, facts, node, only

Patch = pytest.MonkeyPatch


# --- config and W&B --------------------------------------------------------------------------------------------------


def test_every_fault_of_a_config_is_found(tmp_path: Path) -> None:
    new = {"dir": tmp_path, "name": "new"}
    short = {"max_model_len": 512}
    run = config(games=[{"id": "no_game"}], learner={"loss": "no_loss"}, run=new, generators=short)
    assert [(finding.state, finding.what) for finding in check_config(run)] == [
        ("fault", "games"),
        ("fault", "plug-ins"),
        ("ok", "answers and context"),
    ]
    too_long = config(run=new, generators={"max_model_len": 9999})
    assert [finding.state for finding in check_config(too_long)] == ["ok", "ok", "fault"]
    (tmp_path / "old").mkdir()
    *checks, exists = check_config(config(run={"dir": tmp_path, "name": "old"}, generators={"max_model_len": 512}))
    assert [finding.state for finding in checks] == ["ok", "ok", "ok"]
    assert exists.state == "note"
    assert exists.cure.startswith("spiral resume ")


@pytest.mark.parametrize(
    ("mode", "has_key", "state", "found"),
    [
        ("auto", True, "ok", "online; an API key"),
        ("auto", False, "ok", "offline; no API key"),
        ("online", False, "fault", "online, but no API key"),
        ("disabled", False, "ok", "disabled; no API key"),
    ],
)
def test_wandb_needs_a_key_where_a_config_says_online(
    mode: str, has_key: bool, state: str, found: str, monkeypatch: Patch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    finding = only(check_wandb(config(wandb={"mode": mode}), facts(has_wandb_key=has_key)))
    assert (finding.state, finding.found) == (state, found)


def test_without_its_sink_wandb_does_not_matter() -> None:
    assert list(check_wandb(config(monitor={"sinks": []}), facts(versions={}))) == []
    assert only(check_wandb(config(), facts(versions={}))).found == "missing"


# --- this machine ----------------------------------------------------------------------------------------------------


@pytest.fixture
def question(tmp_path: Path) -> Question:
    return Question(run_dir=tmp_path / "deep" / "runs", model_sizes={})


def test_a_wandb_key_is_noticed_and_not_kept(question: Question, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com:8080")
    assert not gather(question).has_wandb_key
    (tmp_path / "netrc").write_text(f"machine wandb.example.com login user password {KEY}\n")
    assert gather(question).has_wandb_key
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example.com")
    assert not gather(question).has_wandb_key, "a key of another server"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    found = gather(question)
    assert found.has_wandb_key
    assert KEY not in repr(found)


def test_places_are_described_by_what_exists_of_them(question: Question, tmp_path: Path) -> None:
    found = gather(question).run_dir
    assert found.path == str(tmp_path) == str(existing_parent(question.run_dir))
    assert found.free > 0
    assert found.is_writable
    assert not question.run_dir.exists()
    assert found.identity == gather(question).run_dir.identity
    (tmp_path / "deep").mkdir()
    assert found.identity != gather(question).run_dir.identity


def nvidia_smi(directory: Path, script: str, monkeypatch: Patch) -> None:
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def test_gpus_are_what_nvidia_smi_says(question: Question, tmp_path: Path, monkeypatch: Patch) -> None:
    lines = "NVIDIA H100, 80GB, 81559, 81000\\nNVIDIA GB10, [N/A], [N/A]\\n"
    nvidia_smi(tmp_path, f"printf '{lines}'", monkeypatch)
    first, second = gather(question).gpus
    assert (first.name, first.total, first.free) == ("NVIDIA H100, 80GB", 81559 * 2.0**20, 81000 * 2.0**20)
    assert second.name == "NVIDIA GB10"
    assert math.isnan(second.total)


def test_the_reason_of_a_failing_nvidia_smi_is_one_line(question: Question, tmp_path: Path, monkeypatch: Patch) -> None:
    nvidia_smi(tmp_path, "echo Failed to initialize NVML; echo Driver/library mismatch; exit 18", monkeypatch)
    found = gather(question)
    assert (found.gpus, found.gpu_error) == ((), "nvidia-smi: Failed to initialize NVML Driver/library mismatch")


def test_a_model_is_there_if_its_files_have_the_same_sizes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "learner.pt").write_bytes(b"of no interest")
    sizes = sizes_of(tmp_path)
    assert sizes == {"model.safetensors": 7}
    asked = Question(run_dir=tmp_path, model_dir=tmp_path, model_sizes=sizes)
    assert gather(asked).has_model
    assert not gather(replace(asked, model_sizes={"model.safetensors": 8})).has_model
    assert not gather(replace(asked, model_dir=tmp_path / "none")).has_model


# --- connections -----------------------------------------------------------------------------------------------------


def test_probes_reach_each_other(question: Question) -> None:
    probe = Probe(question, None)
    endpoint = probe.listen("127.0.0.1")
    (link,) = probe.reach([endpoint])
    assert (link.error, link.interface) == ("", "lo")
    assert 0 < link.seconds < 5


def test_whoever_else_answers_is_no_node(question: Question) -> None:
    probe = Probe(question, None)
    endpoint = replace(probe.listen("127.0.0.1"), token="0" * 16)
    (link,) = probe.reach([endpoint])
    assert link.error == "another machine or program answers there"


def test_a_closed_port_and_a_foreign_address_are_reported(question: Question) -> None:
    with listen("127.0.0.1") as server:
        port = server.getsockname()[1]
    probe = Probe(question, None)
    (link,) = probe.reach([Endpoint(address="127.0.0.1", port=port, token="x")])
    assert link.error == "Connection refused"
    assert probe.listen("192.0.2.1").error == "Cannot assign requested address"


def test_interfaces_are_those_that_other_machines_may_reach() -> None:
    assert "lo" not in interfaces()
    assert set(interfaces()) <= {name for _, name in socket.if_nameindex()}


def test_a_missing_plugin_is_one_line(question: Question) -> None:
    assert Probe(question, None).plugin_fault() == ""
    assert Probe(question, config()).plugin_fault() == ""
    found = Probe(question, config(learner={"loss": "nowhere:loss"})).plugin_fault()
    assert "learner.loss 'nowhere:loss' cannot be imported" in found
    assert "\n" not in found


# --- the table -------------------------------------------------------------------------------------------------------


def test_findings_of_a_check_stand_together_and_equal_ones_are_one() -> None:
    found = grouped([ok("a", "x", ["n1"]), ok("b", "y", ["n1"]), ok("a", "x", ["n2"]), fault("a", "z", "do", ["n3"])])
    assert found == [ok("a", "x", ["n1", "n2"]), fault("a", "z", "do", ["n3"]), ok("b", "y", ["n1"])]


def test_of_amounts_the_least_is_shown() -> None:
    (found,) = grouped([ok("disk", "9 GiB", ["n1"], amount=9), ok("disk", "5 GiB", ["n2"], amount=5)])
    assert (found.found, found.where) == ("at least 5 GiB (n2)", ("n1", "n2"))


def test_many_nodes_are_counted() -> None:
    names = [f"n{number}" for number in range(1, 9)]
    assert named(names, 8) == "all 8 nodes"
    assert named(names[:5], 8) == "n1, n2, n3 and 2 more"
    assert named(names[:2], 8) == "n1, n2"
    assert named(names[:1], 1) == ""


def test_only_faults_stop_a_run() -> None:
    assert healthy([ok("a", "x"), note("b", "y", "do")])
    assert not healthy([ok("a", "x"), fault("b", "y", "do")])


def shown(diagnosis: Diagnosis) -> list[str]:
    out = StringIO()
    show(diagnosis, Console(file=out, width=160))
    return [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]


def test_the_table_says_where_if_there_are_several_nodes() -> None:
    findings = [ok("torch", "1.0 [x]", ["node1", "node2"]), fault("cache", "full", "free it", ["node2"])]
    lines = shown(Diagnosis(findings, [node(1), node(2)]))
    assert "ok torch all 2 nodes 1.0 [x]" in lines
    assert "fault cache node2 full free it" in lines
    assert lines[-1] == "a run cannot start"
    alone = shown(Diagnosis([ok("torch", "1.0", ["node1"])], [node(1)]))
    assert "ok torch 1.0" in alone
    long = shown(Diagnosis([fault("cache", "/a" * 200, "free it")], [node(1)]))
    assert "".join(long).count("/a") == 200, "nothing is cut off"
    assert alone[-1] == "a run can start"


def test_json_holds_the_facts_and_no_nan() -> None:
    machine = facts(gpus=(Gpu(name="x", total=math.nan, free=1.0),))
    tree = json.loads(
        as_json(Diagnosis([ok("a", "b", ["node1"])], [node(1, facts=machine)])), parse_constant=pytest.fail
    )
    assert tree["healthy"] is True
    assert tree["findings"][0]["what"] == "a"
    assert tree["nodes"][0]["facts"]["gpus"] == [{"name": "x", "total": None, "free": 1.0}]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: Patch) -> None:
    """A working directory, and no cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("alone")
def test_a_machine_without_a_cluster_is_examined_by_itself(tmp_path: Path) -> None:
    diagnosis = examine(config(generators={"max_model_len": 512}), limit_s=1)
    assert [report.name for report in diagnosis.reports] == [socket.gethostname()]
    by_check = {finding.what: finding for finding in diagnosis.findings}
    assert {"python", "torch", "run directory", "model", "games", "room", "W&B"} <= set(by_check)
    assert "network" not in by_check
    assert list(tmp_path.iterdir()) == [], "nothing was written"


@pytest.mark.usefixtures("alone")
def test_endpoints_have_to_be_reachable_and_keys_are_not_kept(monkeypatch: Patch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    with listen("127.0.0.1") as server:
        there = {"model": "m", "url": f"http://127.0.0.1:{server.getsockname()[1]}/v1", "api_key_env": "SOME_KEY"}
        gone = {"model": "m", "url": "http://127.0.0.1:9/v1", "api_key_env": "NO_KEY"}
        run = config(generators={"max_model_len": 512}, endpoints={"there": there, "gone": gone})
        diagnosis = examine(run, limit_s=1)
    found = {finding.what: finding for finding in diagnosis.findings}
    assert (found["endpoint there"].state, found["endpoint there"].found) == ("ok", "reachable; SOME_KEY is set")
    assert found["endpoint gone"].state == "fault" and "refused" in found["endpoint gone"].found
    assert KEY not in str(diagnosis)


@pytest.mark.usefixtures("alone")
def test_too_few_gpus_are_a_fault() -> None:
    run = config(generators={"max_model_len": 512, "gpus": 1})
    found = {finding.what: finding for finding in examine(run, limit_s=1).findings}["room"]
    assert found.state == "fault"
    assert "this run needs 1 GPUs" in found.found


@pytest.mark.usefixtures("alone")
def test_an_installation_without_packages_is_reported(monkeypatch: Patch) -> None:
    """Also without Ray, although RAY_ADDRESS names a cluster."""
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    monkeypatch.setattr(gathering, "_version", lambda name: None)
    lines = shown(examine(None, limit_s=1))
    assert "fault ray missing make venv" in lines
    assert "fault vllm missing make venv, or pip install '.[gpu]'" in lines
    assert lines[-1] == "a run cannot start"


def test_needs_follow_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(GIB)
    run = config(model={"name": str(tmp_path)}, checkpoint={"keep_last": 1})
    needs = Needs.of(run)
    assert needs.versions == 3 * GIB
    assert needs.model == GIB + 2 + ROOM
    assert needs.checkpoints == 6 * GIB + GIB // 4
    assert needs.question(run).model_sizes == {"config.json": 2, "model.safetensors": GIB}
    assert "no such directory" in Needs.of(config(model={"name": "./none"})).model_error
    assert Needs.of(config(games=[{"id": "no_game"}])).model_error == "", "not the model's fault"
    assert Needs.of(None).checkpoints == 2 * GIB
