"""The messages that the source can give: its texts as patterns, in which gaps are filled in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import svdistill

SOURCE = Path(svdistill.__file__).parent
GAP = "(.+?)"
LONG = 60  # letters: what fills a gap and is longer must be a text of the source itself
PARTS = re.compile(r".+?: expected (?P<expected>.+), got .+?; (?P<remedy>.+)")


class Error(NamedTuple):
    """What a call that makes an error says of it."""

    expected: re.Pattern[str]
    remedy: re.Pattern[str]


class Messages:
    """All texts and all errors of the source."""

    def __init__(self) -> None:
        trees = [ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")]
        nodes = [node for tree in trees for node in ast.walk(tree)]
        texts = {_pattern(node) for node in nodes}
        worded = [text for text in texts if re.search(r"\w\w\w", text.replace("\\", ""))]
        self.texts = [re.compile(text, re.DOTALL) for text in worded]
        self.errors = [error for node in nodes for error in _errors(node)]

    def give(self, message: str) -> bool:
        """Whether a message is an error of the source, or a text in it."""
        parts = PARTS.fullmatch(message)
        if parts is None:
            return self.have(message)
        return any(
            self._fits(error.expected, parts["expected"])
            and self._fits(error.remedy, parts["remedy"])
            for error in self.errors
        )

    def have(self, text: str) -> bool:
        """Whether a text is in the source, a third of it written and not filled in."""
        return any(3 * self._written(pattern, text) >= len(text) for pattern in self.texts)

    def _fits(self, pattern: re.Pattern[str], part: str) -> bool:
        """Whether a part has a pattern's words, or fills it and is a text from elsewhere."""
        return self._written(pattern, part) > 0 or (pattern.pattern == GAP and self.have(part))

    def _written(self, pattern: re.Pattern[str], text: str) -> int:
        """How many letters of a text are a pattern's own, or of texts that fill its gaps."""
        match = pattern.fullmatch(text)
        gaps = [gap for gap in match.groups() if gap] if match else []
        own = len(text) - sum(map(len, gaps))
        if match is None or own == 0:
            return 0
        long = [gap for gap in gaps if len(gap) > LONG]
        return own + sum(map(len, long)) if all(map(self.have, long)) else 0


def _errors(node: ast.AST) -> Iterator[Error]:
    if isinstance(node, ast.Call):
        parts = {keyword.arg: _pattern(keyword.value) for keyword in node.keywords}
        if {"expected", "got", "remedy"} <= set(parts):
            yield Error(*(re.compile(parts[name], re.DOTALL) for name in Error._fields))


def _pattern(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_pattern, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _pattern(node.left) + _pattern(node.right)
    if isinstance(node, ast.IfExp):
        return f"(?:{_pattern(node.body)}|{_pattern(node.orelse)})"
    return GAP
