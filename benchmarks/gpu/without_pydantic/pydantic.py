"""As much of pydantic as the config tree needs, for machines that have torch without it, and no way to install it.

It gives keys their defaults and types, and checks nothing. benchmarks/gpu puts this folder on the path of its steps
where pydantic is missing; a test compares every packaged config with what pydantic makes of it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin, get_type_hints

ConfigDict = dict
ValidationInfo = Any


class ValidationError(ValueError):
    """Never raised."""


class AfterValidator:
    def __init__(self, check: Callable[[Any], Any]) -> None: ...


class BeforeValidator:
    def __init__(self, change: Callable[[Any], Any]) -> None: ...


class Field:
    """A default that is made anew for each object."""

    def __init__(self, *, default_factory: Callable[[], Any]) -> None:
        self.default_factory = default_factory


def field_validator(*_: str, **__: Any) -> Callable[[Any], Any]:
    return lambda check: check


def model_validator(**_: Any) -> Callable[[Any], Any]:
    return lambda check: check


class BaseModel:
    def __init__(self, **values: Any) -> None:
        for key, annotation in get_type_hints(type(self), include_extras=False).items():
            if key == "model_config":
                continue
            default = getattr(type(self), key, None)
            if isinstance(default, Field):
                default = default.default_factory()
            setattr(self, key, _typed(values.pop(key), annotation) if key in values else default)
        assert not values, f"{type(self).__name__} has no {', '.join(values)}"

    @classmethod
    def model_validate(cls, tree: Mapping[str, Any]) -> Self:
        return cls(**tree)

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        copy = type(self)()
        copy.__dict__.update(self.__dict__ | dict(update))
        return copy

    def model_dump(self, *, mode: str = "json") -> dict[str, Any]:
        return {key: _dumped(value) for key, value in self.__dict__.items()}


def _typed(value: Any, annotation: Any) -> Any:
    """`value` as the type that `annotation` names; of a union the first that is no None."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _typed(value, parts[0])
    if value is None or annotation is Any:
        return value
    if origin in (Union, UnionType):
        return _typed(value, parts[0]) if len([part for part in parts if part is not type(None)]) == 1 else value
    if origin is tuple:
        return tuple(_typed(item, parts[0]) for item in value)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return value if isinstance(value, BaseModel) else annotation(**value)
    return annotation(value) if annotation in (float, Path) else value


def _dumped(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, tuple):
        return [_dumped(item) for item in value]
    return str(value) if isinstance(value, Path) else value
