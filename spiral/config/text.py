"""YAML in which an unquoted scalar keeps its text, for the keys that hold text."""

import re
from typing import Any

import yaml

from spiral.config.section import Scalar

TAG = "tag:yaml.org,2002:"
NUMBER_WITHOUT_DOT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")  # 1e-6: YAML 1.1 takes it for text


def parse(text: str) -> Any:
    """The tree of a YAML document; unquoted numbers, dates, booleans and nulls are `Scalar`s. Raises YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


class _Loader(yaml.SafeLoader):
    """Constructs plain data only."""


def _construct_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    try:
        value = yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    except (ValueError, LookupError, AttributeError):  # it only looks like one: 2026-13-45, !!int x
        value = node.value
    return value if node.style else Scalar(node.value, value)


for name in ("null", "bool", "int", "float", "timestamp"):
    _Loader.add_constructor(TAG + name, _construct_scalar)
for name in ("value", "merge"):  # = and <<, where they are no keys
    _Loader.add_constructor(TAG + name, lambda _, node: node.value)
_Loader.add_implicit_resolver(TAG + "float", NUMBER_WITHOUT_DOT, list("-+0123456789"))
