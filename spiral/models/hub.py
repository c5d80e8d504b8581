"""Models of the Hugging Face hub."""

import json
from pathlib import Path

from spiral.config import UserError


def download(name: str, *, config_only: bool = False) -> Path:
    """The local directory of a hub model, downloaded if necessary. Raises UserError if it cannot be fetched."""
    from huggingface_hub import snapshot_download

    patterns = (
        ["config.json", "*.index.json"] if config_only else ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    )
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises a dozen unrelated types, all of which mean: not available
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model {name!r} cannot be fetched from the hub: {type(error).__name__}: {reason}") from error


def cached(name: str) -> Path | None:
    """The local directory of a hub model with all its weights, or None if it has to be downloaded."""
    from huggingface_hub import snapshot_download

    try:
        directory = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # noqa: BLE001 - as above: not there
        return None
    index = directory / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    return directory if all((directory / file).exists() for file in files) else None


def float32_bytes(name: str, dtype: str) -> int:
    """Size of a hub model's weights in float32, from its index file; 0 for a small model, which has none."""
    index = download(name, config_only=True) / "model.safetensors.index.json"
    if not index.exists():
        return 0
    return int(json.loads(index.read_text())["metadata"]["total_size"]) * (2 if dtype == "bfloat16" else 1)
