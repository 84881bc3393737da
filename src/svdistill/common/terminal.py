"""Text on a terminal: no name of a class, a file or a network is obeyed as markup or control."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

LINES: Final = "\n\t"  # control characters that are text

JOINERS: Final = "\u200c\u200d"  # within words and emoji

# Controls, formats such as a reversed direction, line separators, halves of pairs.
UNSEEN: Final = ("Cc", "Cf", "Zl", "Zp", "Cs")


def shown(text: str) -> str:
    r"""A text with the characters that a terminal would obey written out, as `repr` does.

    Example:
        >>> print(shown("\x1b[2Jcat"), shown("\ud800"), shown("na\u00efve"))
        \x1b[2Jcat \ud800 naïve
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    seen = unicodedata.category(character) not in UNSEEN
    if seen or character in LINES or character in JOINERS:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


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
        """A string as `Text`; see `rich.console.Console.render_str`."""
        return super().render_str(shown(text), **{**options, "markup": False, "emoji": False})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is printed, in segments; see `rich.console.Console.render`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))
