"""What `spiral doctor` finds in several nodes: the network, clocks, the object store and shared directories."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from spiral.doctor.cluster_checks import (
    answers,
    check_cluster,
    clocks,
    model,
    network,
    object_store,
    room,
    run_directories,
    socket_interfaces,
    uses_nccl,
)
from spiral.doctor.needs import ROOM
from spiral.doctor.nodes import Places, node_names
from spiral.doctor.probe import Link
from spiral.machine import GIB
from tests.node_reports import NEEDS, ON_GPUS, config, facts, node, only, place, states, two


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


def test_where_no_node_answers_nothing_else_is_said_of_them() -> None:
    reports = [node(number, error="timed out after 20 s") for number in (1, 2)]
    found = check_cluster(config(), NEEDS, reports, [], Places())
    assert [(finding.what, finding.where) for finding in found] == [("answers", ("node1",)), ("answers", ("node2",))]
