"""Reading the tree from YAML, with dotted overrides, and saying in one line what is wrong with it."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from spiral.config.tree import Config, GameChoice, Section, UserError


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply overrides of the form `key.path=value`. Raises UserError, naming key and near miss."""
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config {path} is not text") from error
    except yaml.YAMLError as error:
        raise UserError(f"config {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"config {path}: expected keys and values, got {type(tree).__name__}")
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"config {path}: {_explain(error)}") from error


def dump(config: Config) -> str:
    """The resolved config as YAML, which `load` reads back."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def describe() -> Iterator[tuple[str, str, str]]:
    """Every key of the tree in order: (dotted key, default, description)."""
    return _walk(Config, "")


def _walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        children = [t for t in (field.annotation, *get_args(field.annotation)) if _is_section(t)]
        text = (field.description or "").replace("\n", " ")
        if children:
            is_list = children[0] is GameChoice
            if text:
                yield f"{prefix}{name}", "required" if field.is_required() else "", text
            yield from _walk(children[0], f"{prefix}{name}[]." if is_list else f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "required" if field.is_required() else str(field.default), text


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in the tree. Raises UserError."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"override {override!r}: expected key.path=value, for example learner.kl_coef=0.1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error
    *parents, leaf = path.strip().split(".")
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else node[_index(node, parent, override)]
        if not isinstance(node, dict | list):
            raise UserError(f"override {override!r}: {parent!r} holds a value, not a section")
    key = leaf if isinstance(node, dict) else _index(node, leaf, override)
    node[key] = _number(value) if isinstance(value, str) else value


def _index(items: list[Any], text: str, override: str) -> int:
    if not text.isdecimal() or int(text) >= len(items):
        raise UserError(f"override {override!r}: expected an index below {len(items)}, got {text!r}")
    return int(text)


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-6, without a dot, as text."""
    try:
        return float(text) if text[:1] in "0123456789.+-" else text
    except ValueError:
        return text


def _explain(error: ValidationError) -> str:
    """The first complaint in one line: key, what was expected, what was given, and the near miss of a misspelt key."""
    first, more = error.errors()[0], error.error_count() - 1
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = {key.replace("[]", "") for key, _, _ in describe()}
        sections = {key.rsplit(".", 1)[0] for key in known if "." in key}
        plain = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
        near = difflib.get_close_matches(plain, known | sections, n=1)
        message = f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else "; see `spiral train --help`")
    elif first["type"] == "missing":
        message = f"{where!r} is missing"
    else:
        got = f", got {first['input']!r}" if not isinstance(first["input"], dict) else ""
        message = f"{where or 'config'}: {first['msg'].removeprefix('Value error, ')}{got}"
    return message + (f" (and {more} more)" if more else "")
