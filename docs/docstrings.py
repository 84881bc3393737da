"""Docstrings as the site wants them: Markdown, with the heading of examples that griffe reads."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
PREFORMATTED = re.compile(r"::$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes the text of each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_more: Any) -> None:
        """`Example:` becomes `Examples:`, and two colons before a formula become one."""
        if obj.docstring is not None:
            text = EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = PREFORMATTED.sub(":", text)
