"""What the machine of this process has, found without loading torch or Ray."""

import importlib.util
import itertools
import os
from pathlib import Path

GIB = 2**30  # bytes
UNUSED_BY_TEXT_MODELS = ("torchvision", "torchaudio", "torchcodec")


def usable_cores() -> list[int]:
    """Numbers of the CPU cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def cache_dir() -> Path:
    """The directory for what can be made again: $SPIRAL_CACHE, else under the user's cache directory."""
    base = os.environ.get("SPIRAL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "spiral"
    return Path(base).expanduser()


def existing_parent(path: Path) -> Path:
    """`path`, made absolute, or the nearest of its parents that exists on this machine."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def num_gpus() -> int:
    """NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = itertools.takewhile(lambda device: not device.startswith("-"), visible.replace(" ", "").split(","))
        return len([device for device in devices if device])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def packages_that_break_vllm() -> list[str]:
    """Installed packages whose usual CUDA builds stop vLLM from being imported next to a CPU build of torch."""
    if num_gpus():
        return []
    return [name for name in UNUSED_BY_TEXT_MODELS if importlib.util.find_spec(name)]
