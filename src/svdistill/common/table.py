"""What is shown to people: tables of typed cells, and text that never acts as control codes.

Names of classes, files and networks come from anywhere.
"""

from __future__ import annotations

import math
import statistics
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

UNKNOWN: Final = "–"  # the text of a cell whose number is not known

SHOWN: Final = 5  # of many names

# Line breaks and tabs; joiners within words and emoji.
PRINTED: Final = "\n\t\u200c\u200d"

# Controls, formats such as a reversed direction, line separators, halves of surrogate pairs.
ESCAPED: Final = ("Cc", "Cf", "Zl", "Zp", "Cs")


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: what it shows.
        number: what its column is sorted by; None sorts by the text, or last among numbers.
    """

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        heading: its name.
        numeric: whether it holds numbers: aligned to the right, and never broken.
        wrap: whether its text may be broken in a narrow terminal; numbers never are.
    """

    heading: str
    numeric: bool = True
    wrap: bool = True


@dataclass(frozen=True)
class Table:
    """A table that renders to a rich console and Markdown, and in the report to HTML.

    Attributes:
        title: what it shows.
        columns: from left to right.
        rows: as many cells each; the first names its row.
        caption: what the numbers are.
        notes: sentences on how to read it.
        best: indices of the rows that the page highlights.
        totals: number of last rows that the terminal sets apart from the others.
        sortable: whether the page lets readers sort it by a column.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    best: tuple[int, ...] = ()
    totals: int = 0
    sortable: bool = True

    def __rich__(self) -> RichTable:
        """The table for a rich console; numbers are never broken in a narrow terminal."""
        caption = " ".join(filter(None, (self.caption, *self.notes)))
        table = RichTable(
            title=self.title or None,
            title_justify="left",
            caption=caption or None,
            caption_justify="left",
            box=box.SIMPLE,  # the narrowest
            collapse_padding=True,
            pad_edge=False,
        )
        for column in self.columns:
            table.add_column(
                column.heading,
                justify="right" if column.numeric else "left",
                no_wrap=column.numeric or not column.wrap,
            )
        for place, row in enumerate(self.rows):
            if self.totals and place == len(self.rows) - self.totals:
                table.add_section()
            table.add_row(*(cell.text for cell in row))
        return table

    def to_markdown(self) -> str:
        """The table's columns and rows as Markdown.

        Example:
            >>> rows = ((Cell("SVD"), Cell("91.00", 91.0)),)
            >>> columns = (Column("", numeric=False), Column("accuracy %"))
            >>> print(Table("", columns, rows).to_markdown())
            |  | accuracy % |
            |---|---|
            | SVD | 91.00 |
        """
        lines = [
            _markdown_row([column.heading for column in self.columns]),
            "|" + "---|" * len(self.columns),
            *(_markdown_row([cell.text for cell in row]) for row in self.rows),
        ]
        return "\n".join(lines)


def columns(first: str, *numeric: str) -> tuple[Column, ...]:
    """A column of names, and columns of numbers.

    Example:
        >>> columns("method", "accuracy %")[1]
        Column(heading='accuracy %', numeric=True, wrap=True)
    """
    return (Column(first, numeric=False), *map(Column, numeric))


def text_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = ""
) -> Table:
    """A table of text, in the order in which it is read.

    Example:
        >>> text_table("", ("setting", "here"), [("epochs", "24")]).rows
        ((Cell(text='epochs', number=None), Cell(text='24', number=None)),)
    """
    return Table(
        title,
        tuple(Column(heading, numeric=False) for heading in headings),
        tuple(tuple(map(Cell, row)) for row in rows),
        caption,
        sortable=False,
    )


def listed(names: Iterable[object]) -> str:
    """Quote the first names for a message, and count the others.

    Example:
        >>> listed(["ant", "bee"]), listed(range(9))
        ("'ant', 'bee'", '0, 1, 2, 3, 4 and 4 more')
    """
    texts = [repr(name) for name in names]
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def mean_std(values: Sequence[float]) -> str:
    """Mean and, of several values, sample standard deviation.

    Example:
        >>> mean_std([1.0, 3.0]), mean_std([2.0])
        ('2.00 ± 1.41', '2.00')
    """
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def millions(count: int, digits: int = 1) -> str:
    """A count in millions.

    Example:
        >>> millions(10_885_540, digits=2)
        '10.89M'
    """
    return f"{count / 1e6:.{digits}f}M"


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "thread"), counted(2, "thread")
        ('1 thread', '2 threads')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def number_cell(number: float | None, pattern: str = "{:.2f}") -> Cell:
    """A number, or a dash if it is not known.

    Example:
        >>> number_cell(-3.14159), number_cell(None)
        (Cell(text='−3.14', number=-3.14159), Cell(text='–', number=None))
    """
    if number is None or not math.isfinite(number):
        return Cell(UNKNOWN)
    return Cell(_with_minus(pattern.format(number)), number)


def mean_cell(values: Sequence[float], *, signed: bool = False) -> Cell:
    """Mean and standard deviation, sorted by the mean; a dash without values.

    Example:
        >>> mean_cell([61.0, 63.0]).text, mean_cell([2.0], signed=True).text
        ('62.00 ± 1.41', '+2.00')
    """
    if not values:
        return Cell(UNKNOWN)
    mean = statistics.fmean(values)
    sign = "+" if signed and mean > 0 else ""
    return Cell(sign + _with_minus(mean_std(values)), mean)


def millions_cell(count: int, digits: int = 1) -> Cell:
    """A count in millions, sorted by the count."""
    return Cell(millions(count, digits), count)


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def _with_minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def shown(text: str) -> str:
    r"""Escape the characters of a text that control a terminal, as `repr` does.

    Example:
        >>> print(shown("\x1b[2Jcat"), shown("\ud800"), shown("na\u00efve"))
        \x1b[2Jcat \ud800 naïve
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in PRINTED or unicodedata.category(character) not in ESCAPED:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


def first_synonym(name: str) -> str:
    """The first of a class's names, as ImageNet's are written.

    Example:
        >>> first_synonym("tench, Tinca tinca")
        'tench'
    """
    return name.partition(",")[0]


def few_classes(names: Sequence[str]) -> str:
    """The number of classes, and the first ones.

    Example:
        >>> few_classes(["tench, Tinca tinca", "dog"]), few_classes("abcdefgh")
        ('2 classes: tench, dog', '8 classes: a, b, c, d, e, ...')
    """
    told = [first_synonym(name) for name in names[:SHOWN]]
    more = ["..."] if len(names) > SHOWN else []
    return f"{len(names)} classes: {', '.join([*told, *more])}"


class TextConsole(Console):
    r"""A rich console that prints strings as text: no markup, no emoji codes, no escape sequences.

    Every string passes `render_str`, in tables too; `render` also covers `Text` objects.

    Example:
        >>> import io
        >>> console = TextConsole(file=io.StringIO())
        >>> console.print("[/INST] \x1b[2J :cat:")
        >>> console.file.getvalue()
        '[/INST] \\x1b[2J :cat:\n'
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to `Text`; see `rich.console.Console.render_str`."""
        return super().render_str(shown(text), **{**options, "markup": False, "emoji": False})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render to segments; see `rich.console.Console.render`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))
