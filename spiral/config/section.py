"""The base class of the config's sections, and the types of their keys."""

from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


def _check_file_name(text: str) -> str:
    if not text.isprintable() or "/" in text or text in ("", ".", "..") or len(text.encode()) > 200:
        raise ValueError("expected the name of a directory: 1 to 200 bytes, without '/' and control characters")
    return text


FileName = Annotated[str, AfterValidator(_check_file_name)]
"""One component of a path."""


class Scalar(str):
    """An unquoted scalar of a YAML file: its text, and in `value` the number, date or else that YAML takes it for."""

    value: Any

    def __new__(cls, text: str, value: Any) -> "Scalar":
        scalar = super().__new__(cls, text)
        scalar.value = value
        return scalar


class Section(BaseModel):
    """A section of the config: immutable, and strict about unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, coerce_numbers_to_str=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _choose_text_or_value(cls, given: Any, info: ValidationInfo) -> Any:
        """Keys that hold text get the text of a `Scalar`: a run may be named 2026-11-23, on, or 1e5."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if get_origin(annotation) is dict and isinstance(given, dict):  # of anything that YAML knows
            return {key: item.value if isinstance(item, Scalar) else item for key, item in given.items()}
        types = _types(annotation)

        def choose(item: Any) -> Any:
            if not isinstance(item, Scalar):
                return item
            is_null = item.value is None and NoneType in types
            return str(item) if types & {str, Path} and not is_null else item.value

        return [choose(item) for item in given] if isinstance(given, list) else choose(given)


def _types(annotation: Any) -> set[Any]:
    """The types that an annotation is made of; a Literal counts as text."""
    if get_origin(annotation) is Literal:
        return {str}
    return {annotation}.union(*(_types(part) for part in get_args(annotation)))
