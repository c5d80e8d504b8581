"""`spiral doctor`: what it finds in the reports of nodes, and how it gets a report of this machine."""

import json
import math
import socket
import stat
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spiral.config import Config
from spiral.doctor import facts as gathering
from spiral.doctor.cluster_checks import (
    answers,
    clocks,
    model,
    network,
    object_store,
    room,
    run_directories,
    socket_interfaces,
    uses_nccl,
)
from spiral.doctor.examine import Diagnosis, check_config, check_wandb, examine
from spiral.doctor.facts import GIB, Facts, Gpu, Place, Question, gather, sizes_of
from spiral.doctor.findings import Finding, fault, grouped, healthy, named, note, ok
from spiral.doctor.machine_checks import cache, cpu_installation, gpus, run_directory, shared_memory, version
from spiral.doctor.needs import ROOM, Needs
from spiral.doctor.nodes import NodeReport, Places, node_names
from spiral.doctor.probe import Endpoint, Link, Probe
from spiral.doctor.report import as_json, show
from spiral.machine import existing_parent
from spiral.network import interfaces, listen

Patch = pytest.MonkeyPatch
KEY = "k3y-" * 10
H100 = Gpu(name="H100", total=80.0 * GIB, free=79.0 * GIB)
VERSIONS = dict.fromkeys(("spiral", "ray", "torch", "vllm", "transformers", "wandb"), "1.0") | {"python": "3.11.7"}
NEEDS = Needs(checkpoints=4 * GIB, versions=3 * GIB, model=2 * GIB, model_dir=Path("/models/m"))


def place(free_gib: float = 100.0, identity: int = 1, *, is_writable: bool = True, path: str = "/data") -> Place:
    return Place(path=path, free=int(free_gib * GIB), is_writable=is_writable, identity=(identity, 0, 0))


def facts(**changes: Any) -> Facts:
    """A sound machine without GPUs."""
    sound = Facts(
        hostname="node",
        versions=VERSIONS,
        num_cores=8,
        gpus=(),
        gpu_error="",
        has_compiler=True,
        stray_packages=(),
        run_dir=place(),
        cache=place(),
        weights=place(path="/dev/shm"),
        temporary=place(path="/tmp"),
        has_model=True,
        has_wandb_key=False,
        interfaces=("eth0",),
        socket_variables={},
    )
    return replace(sound, **changes)


def node(number: int = 1, **changes: Any) -> NodeReport:
    """Node 1 is the driver's. Each reaches itself and the other of two."""
    links = tuple(Link(address=f"10.0.0.{peer}", interface="eth0", seconds=0.001) for peer in (1, 2))
    report = NodeReport(name=f"node{number}", address=f"10.0.0.{number}", is_ours=number == 1, links=links)
    return replace(report, **changes)


def two(first: Facts | None = None, second: Facts | None = None) -> list[tuple[NodeReport, Facts]]:
    return [(node(1), first or facts()), (node(2), second or facts())]


def config(**sections: Any) -> Config:
    tree = {"steps": 1, "model": {"name": "builtin/tiny"}, "games": [{"id": "kuhn_poker"}]}
    return Config.model_validate({**tree, "rollout": {"answer_format": "bracket"}, **sections})


ON_GPUS = {"learner": {"gpus": 2}, "generators": {"gpus": 1, "count": 2}}


def states(findings: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.state, finding.where) for finding in findings]


def only(findings: Any) -> Finding:
    (finding,) = findings
    assert isinstance(finding, Finding)
    assert bool(finding.cure) == (finding.state != "ok"), "a cure for whatever is not ok"
    return finding


# --- versions --------------------------------------------------------------------------------------------------------


def test_equal_versions_are_one_finding() -> None:
    assert only(version("torch", two())) == ok("torch", "1.0", ["node1", "node2"])


def test_another_version_than_ours_is_a_fault_of_that_node() -> None:
    good, bad = version("torch", two(second=facts(versions=VERSIONS | {"torch": "2.0"})))
    assert good == ok("torch", "1.0", ["node1"])
    assert bad == fault("torch", "2.0; node1 has 1.0", "install torch 1.0, as on node1", ["node2"])


def test_a_missing_package_is_a_fault_of_that_node() -> None:
    without = {name: number for name, number in VERSIONS.items() if name != "vllm"}
    bad, good = version("vllm", two(second=facts(versions=without)))
    assert bad == fault("vllm", "missing", "make venv, or pip install '.[gpu]'", ["node2"])
    assert good.where == ("node1",)


def test_builds_for_cpus_and_gpus_may_stand_side_by_side() -> None:
    versions = VERSIONS | {"torch": "1.0+cpu", "vllm": "1.0 (CPU)"}
    for name in ("torch", "vllm"):
        assert only(version(name, two(second=facts(versions=versions)))).where == ("node1", "node2")


def test_another_source_of_the_same_version_is_a_fault() -> None:
    first, second = ({**VERSIONS, "spiral": f"0.1.0 (source {source})"} for source in ("aaaa", "bbbb"))
    _, bad = version("spiral", two(facts(versions=first), facts(versions=second)))
    assert (bad.state, bad.where) == ("fault", ("node2",))
    assert "the same checkout" in bad.cure


@pytest.mark.parametrize(
    ("python", "state"), [("3.11.7", "ok"), ("3.12.0", "ok"), ("3.10.2", "fault"), ("3.1.1", "fault")]
)
def test_python_has_to_be_one_that_is_supported(python: str, state: str) -> None:
    found = list(version("python", [(node(), facts(versions={"python": python}))]))
    assert found[0].state == state


# --- GPUs ------------------------------------------------------------------------------------------------------------


def test_gpus_are_counted_by_kind() -> None:
    found = only(gpus(node(ray_gpus=2, ray_free_gpus=2), facts(gpus=(H100, H100)), config(**ON_GPUS), uses_gpus=True))
    assert found.found == "8 cores, 2 x H100, 80.0 GiB"


@pytest.mark.parametrize(("counted", "state"), [(4, "fault"), (1, "note")])
def test_a_wrong_count_of_ray_is_found(counted: int, state: str) -> None:
    report = node(ray_gpus=counted, ray_free_gpus=counted)
    _, found = gpus(report, facts(gpus=(H100, H100)), config(**ON_GPUS), uses_gpus=True)
    assert (found.state, found.found) == (state, f"Ray counts {counted} of 2")
    assert "--num-gpus=2" in found.cure


def test_gpu_memory_that_another_process_holds_is_a_fault() -> None:
    held = replace(H100, free=60.0 * GIB)
    report = node(ray_gpus=2, ray_free_gpus=2)
    _, found = gpus(report, facts(gpus=(H100, held)), config(**ON_GPUS), uses_gpus=True)
    assert (found.state, found.found) == ("fault", "GPU 1 has 60.0 GiB of 80.0 GiB free")
    in_use = gpus(replace(report, ray_free_gpus=1), facts(gpus=(H100, held)), config(**ON_GPUS), uses_gpus=True)
    assert only(in_use).state == "ok", "it belongs to an actor of another run"


@pytest.mark.parametrize(("uses_gpus", "state"), [(True, "fault"), (False, "note")])
def test_a_driver_that_does_not_answer_is_found(uses_gpus: bool, state: str) -> None:
    _, found = gpus(node(), facts(gpu_error="nvidia-smi: no devices"), config(), uses_gpus)
    assert (found.state, found.found) == (state, "nvidia-smi: no devices")


def test_builds_for_cpus_beside_gpus_are_a_fault() -> None:
    versions = VERSIONS | {"torch": "1.0+cpu"}
    found = only(cpu_installation(node(), facts(gpus=(H100,), versions=versions), uses_gpus=True))
    assert (found.state, found.cure) == ("fault", "make venv EXTRA=gpu")


def test_what_vllm_needs_on_a_cpu() -> None:
    stray, compiler = cpu_installation(node(), facts(stray_packages=("torchvision",), has_compiler=False), False)
    assert (stray.state, stray.cure.split(":")[0]) == ("fault", "pip uninstall --yes torchvision")
    assert (compiler.state, compiler.what) == ("fault", "C compiler")


# --- space -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "temporary", "state"), [(4.0, 0.0, "ok"), (3.0, 4.0, "note"), (3.0, 3.0, "fault")])
def test_three_policy_versions_have_to_fit(shared: float, temporary: float, state: str) -> None:
    machine = facts(weights=place(shared), temporary=place(temporary))
    assert only(shared_memory(node(), machine, config(), NEEDS)).state == state


def test_weights_dir_takes_the_place_of_shared_memory() -> None:
    small = facts(weights=place(1.0, path="/fast"))
    found = only(shared_memory(node(), small, config(weights={"dir": "/fast"}), NEEDS))
    assert (found.state, found.what, found.found) == ("fault", "weights.dir", "1.0 GiB free at /fast, 3.2 GiB needed")


def test_checkpoints_have_to_fit() -> None:
    assert run_directory(node(), facts(run_dir=place(4.5)), NEEDS).state == "ok"
    found = run_directory(node(), facts(run_dir=place(3.5)), NEEDS)
    assert (found.state, found.found) == ("fault", "3.5 GiB free at /data, 4.0 GiB needed")
    assert "checkpoint.keep_last" in found.cure
    assert run_directory(node(), facts(run_dir=place(is_writable=False)), NEEDS).found == "/data is not writable"


def test_a_node_without_the_model_needs_room_for_it() -> None:
    small = place(1.0)
    assert only(cache(node(2), facts(cache=small, has_model=True), NEEDS)).state == "ok"
    assert only(cache(node(2), facts(cache=small, has_model=False), NEEDS)).state == "fault"


# --- the cluster -----------------------------------------------------------------------------------------------------


def test_a_node_that_does_not_answer_is_named() -> None:
    assert list(answers(node(1))) == []
    late = only(answers(node(2, error="did not answer within 60 s")))
    assert (late.state, late.where, late.found) == ("fault", ("node2",), "did not answer within 60 s")
    bare = only(answers(node(2, error="ModuleNotFoundError: No module named 'spiral'")))
    assert bare.cure.startswith("install SPIRAL there")


def test_where_a_run_has_room() -> None:
    places = Places(learner=Counter(node1=1), generators=Counter(node1=1, node2=2))
    assert only(room(config(), places)).found == "learner: node1; generators: 1 on node1, 2 on node2"
    assert only(room(config(), Places(error="no room"))).state == "fault"


def test_the_model_is_here_or_is_sent() -> None:
    run = config()
    assert only(model(node(2), facts(), run, NEEDS)).found == "in /models/m"
    sent = only(model(node(2), facts(has_model=False), run, NEEDS))
    assert (sent.state, sent.found) == ("ok", "is sent by Ray when a run starts (1.8 GiB)")
    wanting = replace(NEEDS, model_error="no such model")
    assert only(model(node(1), facts(), run, wanting)).cure == "no such model"
    assert list(model(node(2), facts(), run, wanting)) == [], "once is enough"


def test_an_object_store_that_is_too_small_is_noted() -> None:
    assert only(object_store(node(object_store=6.0 * GIB), NEEDS)).state == "ok"
    found = only(object_store(node(object_store=2.0 * GIB), NEEDS))
    assert (found.state, found.found) == ("note", "2.0 GiB")
    assert f"--object-store-memory={5 * GIB - ROOM}" in found.cure


def test_the_learners_machines_have_to_share_the_run_directory() -> None:
    places = Places(learner=Counter(node1=1, node2=1))
    shared = run_directories(two(), places, NEEDS)
    assert states(shared) == [("ok", ("node1",)), ("ok", ("node2",))]
    other = two(second=facts(run_dir=place(identity=2)))
    *_, found = run_directories(other, places, NEEDS)
    assert (found.state, found.where, found.found) == ("fault", ("node2",), "is another than /data of this machine")
    generators_only = run_directories(other, Places(learner=Counter(node1=1)), NEEDS)
    assert states(generators_only) == [("ok", ("node1",))]


def test_nodes_that_reach_each_other_are_one_finding() -> None:
    found = only(network(two(), Places(learner=Counter(node2=1))))
    assert found.where == ("node1", "node2")
    assert found.found == "all reach each other; node2 at 10.0.0.2 through eth0, in at most 1.0 ms"


def test_a_node_that_is_not_reached_is_named_with_the_interface() -> None:
    broken = (Link(address="10.0.0.1", interface="ib0", error="timed out"), node().links[1])
    found = only(network([(node(1), facts()), (node(2, links=broken), facts())], Places()))
    assert (found.state, found.where) == ("fault", ("node2",))
    assert found.found == "does not reach node1 (10.0.0.1) through ib0: timed out"
    assert "--node-ip-address" in found.cure


def test_an_address_that_is_not_the_nodes_own_is_a_fault() -> None:
    bad = node(2, listen_error="Cannot assign requested address")
    found = only(network([(node(1), facts()), (bad, facts())], Places()))
    assert (found.where, found.found) == (("node2",), "cannot listen at 10.0.0.2: Cannot assign requested address")


@pytest.mark.parametrize(("offset", "state"), [(0.2, "ok"), (-5.0, "note"), (90.0, "fault")])
def test_clocks_have_to_agree(offset: float, state: str) -> None:
    found = only(clocks([(node(1), facts()), (node(2, clock_offset_s=offset), facts())]))
    assert found.state == state
    assert state == "ok" or found.where == ("node2",)


def test_nccl_matters_between_machines_only() -> None:
    one, several = Places(learner=Counter(node1=2)), Places(learner=Counter(node1=1, node2=1))
    assert not uses_nccl(config(**ON_GPUS), one)
    assert uses_nccl(config(**ON_GPUS), several)
    assert uses_nccl(config(**ON_GPUS, weights={"transport": "nccl"}), one)
    assert not uses_nccl(config(learner={"cpu_ranks": 2}), several)


@pytest.mark.parametrize(
    ("interfaces", "variables", "state"),
    [
        (("eth0",), {}, "ok"),
        (("docker0", "eth0"), {}, "note"),
        (("docker0", "eth0"), {"NCCL_SOCKET_IFNAME": "eth"}, "ok"),
        (("docker0", "eth0"), {"NCCL_SOCKET_IFNAME": "^docker"}, "ok"),
        (("eth0",), {"NCCL_SOCKET_IFNAME": "=ib0"}, "fault"),
        (("eth0",), {"GLOO_SOCKET_IFNAME": "ib0"}, "fault"),
    ],
)
def test_the_interface_of_nccl(interfaces: tuple[str, ...], variables: dict[str, str], state: str) -> None:
    found = only(socket_interfaces(node(1), facts(interfaces=interfaces, socket_variables=variables)))
    assert found.state == state
    assert state == "ok" or "_SOCKET_IFNAME=eth0 before `ray start`" in found.cure


def test_nodes_of_one_host_name_are_told_apart() -> None:
    class Named:
        def __init__(self, id: str, hostname: str, address: str) -> None:
            self.id, self.hostname, self.address = id, hostname, address

    nodes: Any = [Named("a", "x", "10.0.0.1"), Named("b", "x", "10.0.0.2"), Named("c", "y", "10.0.0.3")]
    assert node_names(nodes) == {"a": "x (10.0.0.1)", "b": "x (10.0.0.2)", "c": "y"}


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
