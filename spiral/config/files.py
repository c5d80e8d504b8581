"""Reads a config from YAML or a mapping, applies dotted overrides, and explains an error in one line."""

import copy
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from spiral.config.section import Section
from spiral.config.text import parse
from spiral.config.tree import Config
from spiral.errors import UserError
from spiral.plugins import did_you_mean

Source = str | Path | Mapping[str, Any]

_short = reprlib.Repr()  # YAML's aliases can make a small file an enormous value
_short.maxlevel, _short.maxstring, _short.maxother = 2, 80, 80


def load_config(source: Source, overrides: Sequence[str] = ()) -> Config:
    """Build a Config from a YAML file, the name of a packaged config (`quickstart`), or a mapping of keys.

    `overrides` have the form `key.path=value`, the value in YAML. Raises UserError, naming the key and its nearest
    known name.
    """
    if isinstance(source, Mapping):
        return _validated("config", copy.deepcopy(dict(source)), overrides)
    try:
        path = _find(source)
        tree = parse(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"config {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config {source} is not text") from error
    except yaml.YAMLError as error:
        raise UserError(f"config {source} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"config {path}: expected keys and values, got {type(tree).__name__}")
    return _validated(f"config {path}", tree, overrides)


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A validated copy of `config` with the values of some dotted keys replaced. Raises UserError."""
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return _validated("config", tree, ())


def packaged_configs() -> dict[str, Path]:
    """The configs that are installed with SPIRAL, by name."""
    return {path.stem: path for path in sorted(Path(str(files("spiral_configs"))).glob("*.yaml"))}


def _find(source: str | Path) -> Path:
    """The file behind a path or the name of a packaged config."""
    if "\0" in str(source):
        raise UserError(f"config {str(source)!r}: no such file")
    path, packaged = Path(source), packaged_configs()
    if not path.is_file() and str(source) in packaged:
        return packaged[str(source)]
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    raise UserError(f"config {source}: no such file, and no packaged config; {did_you_mean(str(source), packaged)}")


def _validated(where: str, tree: dict[str, Any], overrides: Sequence[str]) -> Config:
    for text in overrides:
        _apply(tree, text)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from error


def dump(config: Config) -> str:
    """The resolved config as YAML, which `load_config` reads back."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def describe() -> Iterator[tuple[str, str, str]]:
    """Every key of the tree in order: (dotted key, default, description)."""
    return _walk(Config, "")


def _walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        children = [t for t in (field.annotation, *get_args(field.annotation)) if _is_section(t)]
        text = (field.description or "").replace("\n", " ")
        if children:
            origin = get_origin(field.annotation)
            of_many = "[]" if origin is tuple else ".NAME" if origin is dict else ""
            if text:
                yield f"{prefix}{name}", "required" if field.is_required() else "", text
            yield from _walk(children[0], f"{prefix}{name}{of_many}.")
        else:
            yield (
                f"{prefix}{name}",
                "required" if field.is_required() else str(field.get_default(call_default_factory=True)),
                text,
            )


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in the tree. Raises UserError."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"override {_short.repr(override)}: expected key.path=value, for example learner.kl_coef=0.1")
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {_short.repr(override)}: the value is not valid YAML") from error
    *parents, leaf = path.strip().split(".")
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else node[_index(node, parent, override)]
        if not isinstance(node, dict | list):
            raise UserError(f"override {_short.repr(override)}: {_short.repr(parent)} holds a value, not a section")
    key = leaf if isinstance(node, dict) else _index(node, leaf, override)
    node[key] = value


def _index(items: list[Any], text: str, override: str) -> int:
    indices = [str(index) for index in range(len(items))]
    if text not in indices:
        raise UserError(
            f"override {_short.repr(override)}: expected an index below {len(items)}, got {_short.repr(text)}"
        )
    return indices.index(text)


def _explain(error: ValidationError) -> str:
    """The first error in one line: key, expectation, value given, and the nearest known name of a misspelled key."""
    first, more = error.errors()[0], error.error_count() - 1
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = {key.replace("[]", "") for key, _, _ in describe()}
        sections = {key.rsplit(".", 1)[0] for key in known if "." in key}
        plain = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
        hint = did_you_mean(plain, sorted(known | sections), otherwise="see `spiral train --help`")
        message = f"unknown key {_short.repr(where)}; {hint}"
    elif first["type"] == "missing":
        message = f"{where!r} is missing"
    else:
        got = f", got {_short.repr(first['input'])}" if not isinstance(first["input"], dict) else ""
        message = f"{where or 'config'}: {first['msg'].removeprefix('Value error, ')}{got}"
    return " ".join(message.split()) + (f" (and {more} more)" if more else "")
