"""Runs on several machines: see `tests.machines`."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spiral.game.new_game import write
from tests.integration.conftest import command
from tests.machines import HEAD, Nodes, two_nodes, why_not

RUN = [
    "smoke",
    "generators.count=2",
    "generators.cpus=2",  # all of a machine: one generator each, and none takes the place of another that is lost
    "games=[{id: 'my_game:MyGame'}, {id: kuhn_poker}]",
    "model.warmup_steps=20",
    "eval.pairs=4",
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes. The plug-in is on node 1 only."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with two_nodes() as nodes:
        write("my_game", nodes.path(1, "/tmp/work"))
        yield nodes


def rows(run_dir: Path) -> list[dict[str, float]]:
    """The complete rows of metrics.jsonl."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def sampling(row: dict[str, float]) -> int:
    """How many generators sampled tokens for a row."""
    return sum(name.startswith("engine/") and name.endswith("/tokens_per_s") and row[name] > 0 for name in row)


def wait_for(
    what: Callable[[dict[str, float]], bool], run_dir: Path, process: subprocess.Popen[str], limit_s: float = 300
) -> int:
    """Wait for a row of which `what` is true; returns its step."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the run ended early: {process.communicate()}")
        for row in rows(run_dir):
            if what(row):
                return int(row["step"])
        time.sleep(0.2)
    raise AssertionError(f"no such row in {limit_s} s; the last: {rows(run_dir)[-1:]}")


JOIN = """
from spiral.cluster.session import num_nodes, ray_session
from spiral.config import UserError
try:
    with ray_session():
        print(num_nodes(), "nodes")
except UserError as error:
    print(error)
"""


def test_an_address_is_enough_to_join_a_cluster_that_asks_for_a_token(nodes: Nodes) -> None:
    done = nodes.run(1, sys.executable, "-c", JOIN, RAY_ADDRESS=HEAD)
    assert (done.stdout, done.stderr) == ("2 nodes\n", "")


def test_a_wrong_token_is_one_line_with_the_cure(nodes: Nodes) -> None:
    done = nodes.run(2, sys.executable, "-c", JOIN, RAY_ADDRESS=HEAD, RAY_AUTH_TOKEN="wrong" * 8)
    assert done.stdout.startswith(f"RAY_ADDRESS={HEAD}: the cluster asks for a token")
    assert "copy ~/.ray/auth_token from the head node" in done.stdout
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.parametrize("address", ["10.77.0.1:1", "10.77.0.99:6379"])
def test_an_address_where_no_ray_answers_is_one_line(nodes: Nodes, address: str) -> None:
    began_s = time.monotonic()
    done = nodes.run(2, sys.executable, "-c", JOIN, RAY_ADDRESS=address)
    assert done.stdout.startswith(f"RAY_ADDRESS={address}: no Ray answers (")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert time.monotonic() - began_s < 60


def test_a_run_uses_both_machines(nodes: Nodes) -> None:
    """Run directory, model cache and plug-in are on node 1 only: what node 2 needs is sent to it."""
    done = nodes.run(1, *command("train", *RUN, "run.name=both", "steps=3"), RAY_ADDRESS=HEAD)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = nodes.path(1, "/tmp/work/runs/both")
    table = rows(run_dir)
    assert [row["step"] for row in table] == [0, 1, 2, 3]
    for row in table[1:]:
        assert row["train/logprob_diff_max"] < 1e-3, "a generator sampled with other weights than the learner's"
        assert row["rollout/void"] == 0
        assert "game/my_game:MyGame/role0/return_mean" in row
    assert any(sampling(row) == 2 for row in table)
    machines = {key.split("/")[1] for key in table[-1] if key.startswith("machine/") and key.endswith("/cores_busy")}
    assert len(machines) == 2, "a machine whose load is in no row"
    for generator in ("generator_0", "generator_1"):
        assert (run_dir / "logs" / f"{generator}.log").stat().st_size > 0
    assert list(nodes.path(2, "/tmp").glob("spiral-generator_*.log")), "no generator ran on node 2"
    for node in (1, 2):
        left = nodes.run(node, "sh", "-c", "ls -d /dev/shm/spiral-*")
        assert left.stdout == "", f"node {node} still holds weights"


def doctor(nodes: Nodes, *arguments: str, **environment: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code of `spiral doctor`, run on node 1 with the run's config, and its findings by check."""
    done = nodes.run(1, *command("doctor", *RUN, *arguments, "--json"), RAY_ADDRESS=HEAD, **environment)
    diagnosis = json.loads(done.stdout)
    assert diagnosis["healthy"] == (done.returncode == 0)
    findings: dict[str, list[dict[str, Any]]] = {}
    for finding in diagnosis["findings"]:
        findings.setdefault(finding["what"], []).append(finding)
    return done.returncode, findings


def faults(findings: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {finding["what"]: finding for rows in findings.values() for finding in rows if finding["state"] == "fault"}


def test_doctor_finds_two_sound_machines_sound(nodes: Nodes) -> None:
    """With a plug-in and a model that only node 1 has, because a run sends them to node 2."""
    code, findings = doctor(nodes)
    assert (code, faults(findings)) == (0, {})
    for what in ("python", "spiral", "ray", "torch", "vllm", "transformers", "network", "clocks"):
        (finding,) = findings[what]
        assert (finding["state"], finding["where"]) == ("ok", ["node1", "node2"])
    assert "node1 at 10.77.0.1 through eth0" in findings["network"][0]["found"]
    assert findings["room"][0]["found"] == "learner: node1; generators: 1 on node1, 1 on node2"
    assert findings["model"][-1]["found"].startswith("is sent by Ray when a run starts")
    assert findings["model"][-1]["where"] == ["node2"]


def test_doctor_names_the_machine_and_the_cure_of_each_fault(nodes: Nodes) -> None:
    """Node 2 lacks a package with a plug-in, has a full cache and a firewall that came after Ray had started."""
    if shutil.which("iptables") is None:
        pytest.skip("a firewall needs iptables")
    installed = nodes.path(1, "/tmp/lib/dist-packages")
    installed.mkdir(parents=True)
    (installed / "my_losses.py").write_text("from spiral.learn.loss import reinforce\n")
    cache = "/tmp/home/.cache/spiral"
    rule = ["INPUT", "-i", "eth0", "-p", "tcp", "--syn", "--dport", "61000:65000", "-j", "DROP"]
    before = nodes.run(2, "cat", "/proc/sys/net/ipv4/ip_local_port_range").stdout
    done_in_node_2 = [
        ["mkdir", "-p", cache],
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", cache],
        ["sysctl", "-w", "net.ipv4.ip_local_port_range=61000 65000"],  # of ports that are opened from now on
        ["iptables", "-A", *rule],
    ]
    try:
        for do in done_in_node_2:
            assert nodes.run(2, *do).returncode == 0
        code, findings = doctor(nodes, "learner.loss=my_losses:reinforce", PYTHONPATH="/tmp/lib/dist-packages")
    finally:
        nodes.run(2, "iptables", "-D", *rule)
        nodes.run(2, "sysctl", "-w", f"net.ipv4.ip_local_port_range={before.strip()}")
        nodes.run(2, "umount", cache)
    found = faults(findings)
    assert (code, set(found)) == (1, {"plug-ins", "cache", "network"})
    assert found["network"]["where"] == ["node1"]
    assert found["network"]["found"] == "does not reach node2 (10.77.0.2) through eth0: timed out"
    assert "open all TCP ports between the nodes" in found["network"]["cure"]
    assert found["cache"]["where"] == found["plug-ins"]["where"] == ["node2"]
    assert "0.0 GiB free" in found["cache"]["found"]
    assert "learner.loss 'my_losses:reinforce' cannot be imported" in found["plug-ins"]["cure"]
    assert "has to be installed on every machine" in found["plug-ins"]["cure"]


def test_a_run_goes_on_when_a_machine_is_lost_and_uses_it_when_it_is_back(nodes: Nodes) -> None:
    overrides = ["run.name=lost", "steps=100000", "eval.every=0", "checkpoint.every=0"]
    process = nodes.start(1, *command("train", *RUN, *overrides), RAY_ADDRESS=HEAD)
    try:
        run_dir = nodes.path(1, "/tmp/work/runs/lost")
        step = wait_for(lambda row: sampling(row) == 2, run_dir, process)
        nodes.script("kill", "2")
        step = wait_for(lambda row: row["step"] > step and row["perf/generators"] == 1, run_dir, process)
        step = wait_for(lambda row: row["step"] > step + 1, run_dir, process)
        nodes.script("add", "2")
        nodes.join(2)
        step = wait_for(lambda row: row["step"] > step and sampling(row) == 2, run_dir, process)
        code, printed = nodes.end(process)
        assert code == 75, printed
        assert rows(run_dir)[-1]["step"] >= step
    finally:
        process.kill()


def test_doctor_names_the_machine_that_does_not_answer(nodes: Nodes) -> None:
    """The last test of these nodes: Ray may give up the one that is stopped."""
    nodes.run(2, "pkill", "-STOP", "raylet")
    try:
        code, findings = doctor(nodes)
    finally:
        nodes.run(2, "pkill", "-CONT", "raylet")
    (finding,) = findings["answers"]
    assert (code, finding["where"]) == (1, ["node2"])
    print(finding["found"])  # that time is up, or, if Ray was quicker, what Ray says of a node that it has given up
    assert "ray status" in finding["cure"]
    assert findings["torch"][0]["where"] == ["node1"]
