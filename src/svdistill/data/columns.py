"""Which columns of a table hold the images and the labels, and what the labels mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from svdistill.common import ArgumentError, DataError, nearest
from svdistill.data.notes import listed, note

if TYPE_CHECKING:
    from datasets import Dataset


IMAGE_COLUMNS: Final = ("image", "img", "images", "picture", "photo", "jpg", "png")

LABEL_COLUMNS: Final = (
    *("label", "labels", "class", "class_label", "target", "category", "fine_label"),
    *("class_id", "label_id", "category_id", "class_name", "label_name", "cls", "y"),
)


def image_column(source: str, table: Dataset, wanted: str | None = None) -> str:
    """The column that holds images: the wanted one, or the obvious or first one that says so.

    Raises:
        ArgumentError: there is no column of the wanted name.
        DataError: none holds images, or the wanted one does not.
    """
    from datasets import Image

    images = [name for name, kind in table.features.items() if isinstance(kind, Image)]
    if wanted is not None:
        _require_column("image_column", wanted, table)
        if wanted not in images and not _holds_bytes(table.features[wanted]):
            raise _no_column(source, table, f"images in the column {wanted!r}")
        return wanted
    if not images:
        raise _no_column(source, table, "an image column (Image)")
    return _obvious(source, "image_column", images, IMAGE_COLUMNS, images[0])


def label_column(source: str, table: Dataset, wanted: str | None = None) -> str:
    """The column that holds labels: the wanted one, or the obvious one.

    Class labels (ClassLabel) come before integers and strings, which are taken only from a column
    of an obvious name. Without an obvious name the column of the most classes is taken.

    Raises:
        ArgumentError: there is no column of the wanted name.
        DataError: none holds labels, or the wanted one does not.
    """
    from datasets import ClassLabel

    kinds = table.features
    named = [name for name, kind in kinds.items() if isinstance(kind, ClassLabel)]
    plain = [name for name, kind in kinds.items() if _is_plain(kind)]
    if wanted is not None:
        _require_column("label_column", wanted, table)
        if wanted not in named + plain:
            raise _no_column(source, table, f"class labels, integers or strings in {wanted!r}")
        return wanted
    if named:
        most = max(named, key=lambda name: kinds[name].num_classes)
        return _obvious(source, "label_column", named, LABEL_COLUMNS, most)
    obvious = [name for name in plain if name.lower() in LABEL_COLUMNS]
    if not obvious:
        raise _no_column(
            source, table, "a label column (ClassLabel), or integers or strings named 'label'"
        )
    return _obvious(source, "label_column", obvious, LABEL_COLUMNS, obvious[0])


def class_values(source: str, tables: Iterable[Dataset], column: str) -> list[Any] | None:
    """The labels that occur in tables, in ascending order; None where the column names its classes.

    Negative numbers and empty texts say that there is no label, and are none of them.
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
        note(f"{source}: labels {listed(sorted(missing))} of {column!r} are taken as missing")
    return sorted(value for value in values if not _is_missing(value))


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, int) and value < 0)


def _obvious(
    source: str, option: str, names: list[str], known: tuple[str, ...], default: str
) -> str:
    """The first of the known names, in any case, or the default; says so where there are others."""
    ranked = sorted((known.index(name.lower()), name) for name in names if name.lower() in known)
    # Of classes at two levels neither name is more obvious, and the finer one is meant.
    chosen = ranked[0][1] if ranked else default
    if len(names) > 1:
        others = listed(name for name in names if name != chosen)
        note(f"{source}: takes {option} {chosen!r}, not {others}; --{option} chooses another")
    return chosen


def _require_column(option: str, wanted: str, table: Dataset) -> None:
    if wanted not in table.features:
        names = list(table.features)
        raise ArgumentError(
            option,
            expected="one of " + ", ".join(map(repr, names)),
            got=repr(wanted),
            remedy=nearest(wanted, names),
        )


def _is_plain(kind: object) -> bool:
    """Whether it is a column of integers or of strings."""
    from datasets import Value

    texts = ("string", "large_string", "string_view")
    return isinstance(kind, Value) and ("int" in kind.dtype or kind.dtype in texts)


def _holds_bytes(kind: object) -> bool:
    """Whether a column that does not say so may hold encoded images."""
    from datasets import Value

    if isinstance(kind, Mapping):
        return {"bytes", "path"} == set(kind)
    return isinstance(kind, Value) and kind.dtype in ("binary", "large_binary")


def _no_column(source: str, table: Dataset, wanted: str) -> DataError:
    features = table.features.items()
    return DataError(
        source,
        expected=wanted,
        got="the columns "
        + ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features),
        remedy="give --image_column or --label_column, or cast it with "
        "datasets.Dataset.cast_column and save files again with to_parquet",
    )
