"""Find the columns of a table that hold the images and the labels, and the label values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from svdistill.common import ArgumentError, DataError, listed, nearest, warn_of_data

if TYPE_CHECKING:
    from datasets import Dataset


# Usual names of columns, in order of preference.
IMAGE_COLUMNS: Final = ("image", "img", "images", "picture", "photo", "jpg", "png")

LABEL_COLUMNS: Final = (
    *("label", "labels", "class", "class_label", "target", "category", "fine_label"),
    *("class_id", "label_id", "category_id", "class_name", "label_name", "cls", "y"),
)


def find_image_column(source: str, table: Dataset, chosen: str | None = None) -> str:
    """Return the image column: the chosen one, else the most usual name, else the first."""
    from datasets import Image

    images = [name for name, kind in table.features.items() if isinstance(kind, Image)]
    if chosen is not None:
        _require_column("image_column", chosen, table)
        if chosen not in images and not _may_hold_images(table.features[chosen]):
            raise _no_column(source, table, f"images in the column {chosen!r}")
        return chosen
    if not images:
        raise _no_column(source, table, "an image column (Image)")
    return _most_usual(source, "image_column", images, IMAGE_COLUMNS, images[0])


def find_label_column(source: str, table: Dataset, chosen: str | None = None) -> str:
    """Return the name of the label column: the chosen one, else one with a usual name.

    Columns of type ClassLabel come first. If none of them has a usual name, the one with the most
    classes is taken. Columns of integers or strings are considered only if there is no ClassLabel,
    and only if they have a usual name.
    """
    from datasets import ClassLabel

    kinds = table.features
    named = [name for name, kind in kinds.items() if isinstance(kind, ClassLabel)]
    plain = [name for name, kind in kinds.items() if _holds_numbers_or_texts(kind)]
    if chosen is not None:
        _require_column("label_column", chosen, table)
        if chosen not in named + plain:
            raise _no_column(source, table, f"class labels, integers or strings in {chosen!r}")
        return chosen
    if named:
        most = max(named, key=lambda name: kinds[name].num_classes)
        return _most_usual(source, "label_column", named, LABEL_COLUMNS, most)
    usual = [name for name in plain if name.lower() in LABEL_COLUMNS]
    if not usual:
        raise _no_column(
            source, table, "a label column (ClassLabel), or integers or strings named 'label'"
        )
    return _most_usual(source, "label_column", usual, LABEL_COLUMNS, usual[0])


def class_values(source: str, tables: Iterable[Dataset], column: str) -> list[Any] | None:
    """Return the distinct labels in a column of tables, ascending; None for a ClassLabel column.

    Negative numbers and empty strings count as missing labels, not as classes.
    """
    from datasets import ClassLabel

    values: set[Any] = set()
    for table in tables:
        if isinstance(table.features[column], ClassLabel):
            return None
        arrow = table.select_columns([column]).with_format("arrow")
        values.update(arrow[:][column].unique().to_pylist())
    missing = {value for value in values if _is_missing(value)} - {-1, None}
    if missing:
        warn_of_data(
            f"{source}: labels {listed(sorted(missing))} of {column!r} are taken as missing"
        )
    return sorted(value for value in values if not _is_missing(value))


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, int) and value < 0)


def _most_usual(
    source: str, option: str, names: list[str], usual: tuple[str, ...], default: str
) -> str:
    """Return the most usual name, in any case, else the default; warns if there are others."""
    ranked = sorted((usual.index(name.lower()), name) for name in names if name.lower() in usual)
    chosen = ranked[0][1] if ranked else default
    if len(names) > 1:
        others = listed(name for name in names if name != chosen)
        warn_of_data(
            f"{source}: takes {option} {chosen!r}, not {others}; --{option} chooses another"
        )
    return chosen


def _require_column(option: str, name: str, table: Dataset) -> None:
    if name not in table.features:
        names = list(table.features)
        raise ArgumentError(
            option,
            expected="one of " + ", ".join(map(repr, names)),
            got=repr(name),
            remedy=nearest(name, names),
        )


def _holds_numbers_or_texts(kind: object) -> bool:
    from datasets import Value

    texts = ("string", "large_string", "string_view")
    return isinstance(kind, Value) and ("int" in kind.dtype or kind.dtype in texts)


def _may_hold_images(kind: object) -> bool:
    """Whether a column of this type, which is not Image, may hold encoded images."""
    from datasets import Value

    if isinstance(kind, Mapping):
        return {"bytes", "path"} == set(kind)
    return isinstance(kind, Value) and kind.dtype in ("binary", "large_binary")


def _no_column(source: str, table: Dataset, expected: str) -> DataError:
    kinds = (f"{name} ({type(kind).__name__})" for name, kind in table.features.items())
    return DataError(
        source,
        expected=expected,
        got="the columns " + ", ".join(kinds),
        remedy="give --image_column or --label_column, or cast it with "
        "datasets.Dataset.cast_column and save files again with to_parquet",
    )
