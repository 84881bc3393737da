"""Dataclasses from what JSON or YAML holds: every type is checked once, where a file is read."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Plain = TypeVar("Plain")


def from_plain(kind: type[Plain], value: object) -> Plain:
    """A dataclass from a dictionary of its fields; nothing is taken on trust.

    Args:
        kind: a dataclass whose fields are numbers, texts, truth values, tuples and lists of these,
            `Literal`s, dataclasses of the like, or one of several such (``int | None``).
        value: what was read. An integer does for a float, a list for a tuple.

    Returns:
        The dataclass. NaN and infinity are floats too: a run may have measured them.

    Raises:
        ValueError: a field is missing, unknown, or of another type; the message names it.

    Example:
        >>> @dataclasses.dataclass
        ... class Size:
        ...     width: float
        ...     sides: tuple[int, ...] = ()
        >>> from_plain(Size, {"width": 2, "sides": [3, 4]})
        Size(width=2.0, sides=(3, 4))
        >>> from_plain(Size, {"width": "2"})
        Traceback (most recent call last):
        ValueError: width is no float: '2'
    """
    return _dataclass(kind, value, "it")


def require_plain(kind: type, values: Mapping[str, object]) -> None:
    """Raise `ValueError` unless those values that are named like a dataclass's fields fit them.

    Others, of other versions, may be missing or be too many.
    """
    hints = get_type_hints(kind)
    for name in hints.keys() & values.keys():
        _value(hints[name], values[name], name)


def _dataclass(kind: type[Plain], value: object, name: str) -> Plain:
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no {kind.__name__}: {_short(value)}")
    if unknown := [field for field in value if field not in fields]:
        raise ValueError(f"unknown: {_short(unknown[0])}")
    for field in fields.values():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in value:
            raise ValueError(f"{field.name} is missing")
    hints = get_type_hints(kind)
    return kind(**{field: _value(hints[field], item, field) for field, item in value.items()})


def _value(kind: Any, value: object, name: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        return _one_of(get_args(kind), value, name)
    if get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind):
        return value
    if get_origin(kind) in (tuple, list) and isinstance(value, (list, tuple)):
        item_kind = get_args(kind)[0]
        return get_origin(kind)(_value(item_kind, item, f"{name}[]") for item in value)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, name)  # type: ignore[arg-type]
    # Larger integers are no number of anything, and no float either.
    if kind is float and type(value) is int and abs(value) < 1 << 63:
        return float(value)
    if type(value) is kind:
        if isinstance(value, str):
            require_text(value, name)
        if not isinstance(value, int) or abs(value) < 1 << 63:
            return value
    raise ValueError(f"{name} is no {getattr(kind, '__name__', kind)}: {_short(value)}")


def _one_of(kinds: tuple[Any, ...], value: object, name: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not types.NoneType)
    for kind in others:
        try:
            return _value(kind, value, name)
        except ValueError:
            continue
    return _value(last, value, name)


def require_text(value: str, name: str) -> None:
    """Raise `ValueError` where a text holds a NUL or half a pair: no path and no page can."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} is no text: {_short(value)}")


def require_finite(**numbers: float | tuple[float, ...]) -> None:
    """Raise `ValueError` at the first number that is NaN or infinite."""
    for name, value in numbers.items():
        if not all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} is not finite")


def _short(value: object) -> str:
    """A value as a message shows it; whatever its size."""
    if isinstance(value, (dict, list, tuple)):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 512 else "a huge int"
    return text if len(text) <= 60 else text[:60] + "..."
