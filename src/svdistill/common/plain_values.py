"""Values from JSON and YAML files, validated against the types of dataclasses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import msgspec
import yaml

from svdistill.common.files import read_json, read_text, reading

Plain = TypeVar("Plain")

MOST: Final = sys.float_info.max

Finite = Annotated[float, msgspec.Meta(ge=-MOST, le=MOST)]  # excludes NaN too

# No configuration comes near this size, and the YAML parser takes minutes for larger files.
MOST_BYTES: Final = 1 << 16


def from_plain(kind: type[Plain], value: object) -> Plain:
    """Convert dictionaries, lists, numbers, strings and booleans to a type.

    Args:
        kind: a type that msgspec converts to, such as a dataclass.
        value: what was read. An integer is accepted for a float, a list for a tuple.

    Returns:
        A value of the type. NaN and infinity are valid floats, but not `Finite`.

    Raises:
        ValueError: a field is missing, unknown, or has another type; the message names it.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass
        ... class Size:
        ...     width: float
        ...     sides: tuple[int, ...] = ()
        >>> from_plain(Size, {"width": 2, "sides": [3, 4]})
        Size(width=2.0, sides=(3, 4))
        >>> from_plain(Size, {"width": "2"})
        Traceback (most recent call last):
        ValueError: width: expected `float`, got `str`
    """
    _require_sound(value)
    try:
        built = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        if str(MOST) in message:
            message = "Expected a finite number"
        place = place.strip(".`") or "value"
        raise ValueError(f"{place}: {message[0].lower()}{message[1:]}"[:200]) from None
    _require_known(value, msgspec.to_builtins(built))
    return built


def read_plain(path: Path, kind: type[Plain], *, expected: str, remedy: str) -> Plain:
    """Read a JSON file of one type.

    Raises:
        RunError: it is missing, damaged, or does not hold what was `expected`.
    """
    value = read_json(path)
    with reading(path, expected=expected, remedy=remedy):
        return from_plain(kind, value)


def plain_fields(kind: type, values: Mapping[str, object]) -> dict[str, Any]:
    """Select the values named like a dataclass's fields, converted to the fields' types.

    Raises:
        ValueError: a value has another type; the message names it.
    """
    fields = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name in values:
            try:
                fields[name] = from_plain(hint, values[name])
            except ValueError as error:
                raise ValueError(f"{name}: {str(error).removeprefix('value: ')}") from None
    return fields


def _require_sound(value: object) -> None:
    """Raise `ValueError` for an integer above 64 bits, and for a string with NUL or a surrogate.

    Such a string is no valid path, and cannot be encoded.
    """
    pending: list[tuple[str, object]] = [("value", value)]
    while pending:
        name, item = pending.pop()
        if isinstance(item, dict):
            pending += [(str(key)[:60], inner) for key, inner in item.items()]
            pending += [("a name", key) for key in item]
        elif isinstance(item, (list, tuple)):
            pending += [(name, inner) for inner in item]
        elif isinstance(item, str):
            if "\0" in item or any("\ud800" <= character <= "\udfff" for character in item):
                raise ValueError(
                    f"{name}: expected a text without NUL and half pairs, got {item[:60]!r}"
                )
        elif isinstance(item, int) and abs(item) >= 1 << 63:
            raise ValueError(f"{name}: expected a number, got an integer of more than 64 bits")


def _require_known(value: object, known: object) -> None:
    """Raise `ValueError` for a field that the dataclass lacks; msgspec ignores it."""
    if isinstance(value, dict) and isinstance(known, dict):
        for name, item in value.items():
            if name not in known:
                raise ValueError(f"unknown: {str(name)[:60]!r}")
            _require_known(item, known[name])
    elif isinstance(value, (list, tuple)) and isinstance(known, (list, tuple)):
        for item, other in zip(value, known, strict=True):
            _require_known(item, other)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: it is larger than 64 KiB, invalid, nested too deeply, or has aliases.
    """
    try:
        return yaml.load(read_text(path, MOST_BYTES), _WithoutAliases)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


class _WithoutAliases(yaml.SafeLoader):
    """Refuses `*name`: nested aliases can expand to billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name), which is not supported")
        return super().compose_node(parent, index)
