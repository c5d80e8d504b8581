"""Publishing weights: a policy version becomes a safetensors directory that generators load."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spiral.config import Config
from spiral.types import WeightsRef

if TYPE_CHECKING:
    import torch

SHARED_MEMORY = Path("/dev/shm")


def publish_dir(config: Config) -> Path:
    """Where this run publishes.

    The name follows from the run directory, so that a resumed run clears what a killed one left.
    """
    if config.weights.dir is not None:
        return config.weights.dir
    tag = hashlib.sha256(str(config.run_dir.resolve()).encode()).hexdigest()[:12]
    if os.access(SHARED_MEMORY, os.W_OK):
        return SHARED_MEMORY / f"spiral-{os.getuid()}-{tag}"
    return config.run_dir / "weights"


def exported_weights(model: "torch.nn.Module", dtype: "torch.dtype") -> dict[str, "torch.Tensor"]:
    """The model's parameters by their Hugging Face names; a tensor that is tied to another is left out."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        weights[name] = tensor.detach().to("cpu", dtype).contiguous()
    return weights


def publish(weights: Mapping[str, "torch.Tensor"], directory: Path, version: int) -> WeightsRef:
    """Write `weights` as `directory/v<version>`; the version before stays, older ones are removed."""
    from safetensors.torch import save_file

    location = directory / f"v{version:06d}"
    aside = directory / f"v{version:06d}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(dict(weights), aside / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(location, ignore_errors=True)
    aside.rename(location)
    # Later versions can only be what a killed run left behind before this one resumed.
    for other in directory.glob("v??????"):
        if not version - 1 <= int(other.name[1:]) <= version:
            shutil.rmtree(other, ignore_errors=True)
    return WeightsRef(version=version, location=str(location))
