"""What `spiral doctor` finds in one node: versions, GPUs and space."""

from dataclasses import replace

import pytest

from spiral.doctor.findings import fault, ok
from spiral.doctor.machine_checks import cache, cpu_installation, gpus, run_directory, shared_memory, version
from spiral.machine import GIB
from tests.node_reports import H100, NEEDS, ON_GPUS, VERSIONS, config, facts, node, only, place, two


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
