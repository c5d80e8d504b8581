"""Size of a model before it is loaded."""

from pathlib import Path

from spiral.config import ModelConfig
from spiral.models import hub
from spiral.models.names import SMOLLM2, TINY


def float32_bytes(model: ModelConfig) -> int:
    """Bytes of the model's weights in float32. 0 for builtin/tiny and small hub models: too little to matter."""
    if model.name == SMOLLM2:
        return 4 * 135_000_000
    directory = Path(model.name)
    if directory.is_dir():
        factor = 2 if model.dtype == "bfloat16" else 1
        return factor * sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return 0 if model.name == TINY else hub.float32_bytes(model.name, model.dtype)
