"""Text on a terminal: names of classes, files and networks never act as markup or control codes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

SHOWN_CLASSES: Final = 5

# Line breaks and tabs; joiners within words and emoji.
PRINTED: Final = "\n\t\u200c\u200d"

# Controls, formats such as a reversed direction, line separators, halves of surrogate pairs.
ESCAPED: Final = ("Cc", "Cf", "Zl", "Zp", "Cs")


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
    told = [first_synonym(name) for name in names[:SHOWN_CLASSES]]
    more = ["..."] if len(names) > SHOWN_CLASSES else []
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
