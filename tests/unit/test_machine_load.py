"""The load of a machine, and what a row says about every machine and endpoint of a run."""

import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from spiral import machine_load
from spiral.cluster.figures import FigureBook
from spiral.machine_load import GpuLoad, LoadMeter, MachineLoad
from spiral.rollout.endpoint import EndpointUse
from spiral.types import EngineFigures

OURS = socket.gethostname()


def test_work_makes_cores_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_load, "LEAST_S", 0.0)
    meter = LoadMeter()
    before = meter.measure()
    end_s = time.monotonic() + 0.5
    while time.monotonic() < end_s:
        pass
    after = meter.measure()
    assert after.cores_busy_s - before.cores_busy_s > 0.3
    assert after.cores_busy_s - before.cores_busy_s < after.cores * (after.at_s - before.at_s) + 0.1
    assert 0 < after.memory_use < 1 and after.memory_gib > 0.1
    assert 0 <= after.shared_memory_use <= 1


def test_a_measurement_is_used_again_for_a_while() -> None:
    meter = LoadMeter()
    assert meter.measure() is meter.measure()


class Nvml:
    """A stand-in for pynvml on a machine with two GPUs, of which the second is lost."""

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 1:
            raise self.NVMLError
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=20, total=80)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=75)


def test_gpus_are_those_that_nvml_can_tell_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_load, "_nvml", Nvml)
    assert LoadMeter().measure().gpus == (GpuLoad(busy=0.75, memory_use=0.25),)


def member(host: str, machine: MachineLoad | None, **endpoints: EndpointUse) -> Any:
    seat = SimpleNamespace(node=SimpleNamespace(hostname=host))
    host_of = SimpleNamespace(seat=seat)
    return SimpleNamespace(host=host_of, figures=EngineFigures(), machine=machine, endpoints=endpoints)


def load(at_s: float, busy_s: float, gpus: tuple[GpuLoad, ...] = ()) -> MachineLoad:
    return MachineLoad(
        at_s=at_s, cores=4, cores_busy_s=busy_s, memory_gib=3.0, memory_use=0.5, shared_memory_use=0.1, gpus=gpus
    )


def test_a_row_has_our_machine_and_those_of_generators() -> None:
    generators: Any = SimpleNamespace(members={}, num_restarts=0)
    book = FigureBook(generators)
    gpus = (GpuLoad(busy=0.9, memory_use=0.8),)
    generators.members = {
        "0": member("far", load(100.0, 50.0, gpus)),
        "1": member("far", load(100.1, 50.2)),
        "2": member(OURS, load(1.0, 1.0)),
        "3": member("starting", None),
    }
    first = book.row()
    machines = {key.split("/")[1] for key in first if key.startswith("machine/")}
    assert machines == {"far", OURS}
    assert "machine/far/cores_busy" not in first, "there is nothing to compare with yet"
    assert (first["machine/far/memory_use"], first["machine/far/gpu0_busy"]) == (0.5, 0.9)
    assert first[f"machine/{OURS}/memory_gib"] != 3.0, "measured here"

    generators.members["0"] = member("far", load(110.0, 70.0, gpus))
    second = book.row()
    assert second["machine/far/cores_busy"] == pytest.approx(20 / (10 * 4))
    assert "machine/far/cores_busy" not in book.row(), "no report since then"


def test_a_row_counts_what_all_generators_have_asked_since_the_last_one() -> None:
    generators: Any = SimpleNamespace(members={}, num_restarts=0)
    book = FigureBook(generators)
    first, second = member("a", None, x=EndpointUse(calls=5, cost=0.5)), member("b", None, x=EndpointUse(calls=2))
    generators.members = {"0": first, "1": second}
    row = book.row()
    assert (row["endpoint/x/calls"], row["endpoint/x/cost"], row["endpoint/x/errors"]) == (7, 0.5, 0)
    first.endpoints = {"x": EndpointUse(calls=8, cost=0.75)}
    generators.members["1"] = member("b", None, x=EndpointUse(calls=1))  # in another process: it counts from 0
    row = book.row()
    assert (row["endpoint/x/calls"], row["endpoint/x/cost"]) == (3 + 1, 0.25)
