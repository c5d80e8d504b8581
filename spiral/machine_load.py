"""How busy this machine is: its cores, memory and GPUs."""

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from spiral.machine import GIB

SHARED_MEMORY = Path("/dev/shm")
LEAST_S = 1.0
"""Time for which a measurement is used again: generators report many times a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad:
    """A GPU: the share of the last second or so in which it computed, and the share of its memory in use."""

    busy: float
    memory_use: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLoad:
    """What a machine does at `at_s`, on a clock of its own, by whichever programs.

    `cores_busy_s` counts the seconds that its cores have been busy, summed over `cores`; `memory_gib` is the memory in
    use, `memory_use` its share of all, and `shared_memory_use` the share of /dev/shm in use.
    """

    at_s: float
    cores: int
    cores_busy_s: float
    memory_gib: float
    memory_use: float
    shared_memory_use: float
    gpus: tuple[GpuLoad, ...] = ()


class LoadMeter:
    """Measures this machine, at most once per LEAST_S."""

    def __init__(self) -> None:
        self._nvml = _nvml()
        self._newest: MachineLoad | None = None

    def measure(self) -> MachineLoad:
        """The load now."""
        now = time.monotonic()
        if self._newest is None or now - self._newest.at_s >= LEAST_S:
            times, memory = psutil.cpu_times(), psutil.virtual_memory()
            shared = psutil.disk_usage(str(SHARED_MEMORY)) if SHARED_MEMORY.exists() else None
            self._newest = MachineLoad(
                at_s=now,
                cores=psutil.cpu_count() or 1,
                cores_busy_s=times.user + times.nice + times.system + times.irq + times.softirq,
                memory_gib=(memory.total - memory.available) / GIB,
                memory_use=memory.percent / 100,
                shared_memory_use=shared.percent / 100 if shared else 0.0,
                gpus=tuple(self._gpus()),
            )
        return self._newest

    def _gpus(self) -> list[GpuLoad]:
        """All GPUs of the machine, whichever of them this process may use."""
        nvml = self._nvml
        if nvml is None:
            return []
        found = []
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
                found.append(GpuLoad(busy=busy, memory_use=memory.used / memory.total))
        except nvml.NVMLError:  # a GPU that is lost, or does not tell (MIG)
            return found
        return found


def _nvml() -> Any:
    """NVIDIA's management library, or None where there is none."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
