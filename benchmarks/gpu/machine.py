"""What this machine has, and why a step cannot run on it."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ("torch", "transformers", "vllm", "ray")
PROBE = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
gpus = [torch.cuda.get_device_properties(i) for i in range(count)]
print(json.dumps([[gpu.name, gpu.total_memory / 2**30] for gpu in gpus]))
"""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a step needs: so many GPUs with so much memory each, importable modules, and files of the checkout."""

    gpus: int = 1
    gpu_gib: int = 0
    modules: Sequence[str] = ()
    files: Sequence[str] = ()

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        memory = f" of {self.gpu_gib} GiB" if self.gpu_gib else ""
        return ", ".join([gpus + memory, *self.modules, *self.files])


@dataclass(frozen=True, kw_only=True)
class Machine:
    """GPUs as (name, GiB of memory) that torch can use, modules that can be imported, and what else a report says."""

    gpus: tuple[tuple[str, float], ...]
    modules: frozenset[str]
    description: str

    @property
    def name(self) -> str:
        return f"{len(self.gpus)} x {self.gpus[0][0]}" if self.gpus else "no GPU"

    @property
    def slug(self) -> str:
        """A name for a directory."""
        return re.sub(r"\W+", "-", self.name.lower())

    @classmethod
    def here(cls, modules: Sequence[str], *, rehearse: bool) -> "Machine":
        """This machine; in a rehearsal as if it had GPUs enough. Another process asks torch, so that no GPU is held."""
        gpus = [("rehearsal on the CPU", float("inf"))] * 2 if rehearse else _gpus()
        return cls(
            gpus=tuple((name, gib) for name, gib in gpus),
            modules=frozenset(name for name in modules if importlib.util.find_spec(name)),
            description=_description(),
        )

    def lacks(self, needs: Needs) -> str | None:
        """Why a step with these needs cannot run here, or None."""
        if len(self.gpus) < needs.gpus:
            return f"needs {needs.gpus} GPU(s) that torch can use, found {len(self.gpus)}"
        if needs.gpus and (least := min(gib for _, gib in self.gpus[: needs.gpus])) < needs.gpu_gib:
            return f"needs {needs.gpu_gib} GiB of GPU memory, found {least:.0f}"
        if missing := [name for name in needs.modules if name not in self.modules]:
            return f"not installed: {', '.join(missing)}"
        if absent := [name for name in needs.files if not (ROOT / name).exists()]:
            return f"this version has no {', '.join(absent)}"
        return None


def _gpus() -> list[tuple[str, float]]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        return []  # no torch
    return [(name, gib) for name, gib in json.loads(done.stdout.splitlines()[-1])]


def _description() -> str:
    """Versions, driver, processor and commit."""
    versions = [f"{name} {version}" for name in VERSIONS if (version := _version(name))]
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    parts = [
        f"{len(os.sched_getaffinity(0))} cores ({platform.machine()})",
        f"Python {platform.python_version()}",
        *versions,
        f"driver {driver}" if driver else "",
        f"commit {commit}" if commit else "",
    ]
    return ", ".join(part for part in parts if part)


def _version(name: str) -> str | None:
    for package in (name, f"{name}-cpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
