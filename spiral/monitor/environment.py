"""environment.json: with which packages, on what machine and from which commit the driver of a run was started."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from spiral.storage.atomic import atomic_file

ENVIRONMENT = "environment.json"


def write_environment(run_dir: Path) -> None:
    """Write environment.json, replacing that of an earlier start of the run."""
    with atomic_file(run_dir / ENVIRONMENT) as aside:
        aside.write_text(json.dumps(_environment(), indent=1) + "\n")


def _environment() -> dict[str, Any]:
    """No environment variables, arguments or remote addresses: these can hold keys."""
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    commit = _output("git", "rev-parse", "HEAD")
    changed = _output("git", "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu_count": os.cpu_count(),
        "gpus": gpus.splitlines() if gpus else [],
        "git": {"commit": commit, "changed": bool(changed)} if commit else None,
        "packages": {
            name: distribution.version
            for distribution in importlib.metadata.distributions()
            if (name := distribution.metadata["Name"])
        },
    }


def _output(*command: str) -> str | None:
    """What a command prints, or None if it fails or is not here."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
