"""The fenced blocks of a Markdown page, in order, with what is included in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
INCLUDED = re.compile(r"^--8<--\n(?P<path>\S+)\n--8<--$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file's name.
        line: the number of its first line of text, from 1.
        language: as written behind the fence; empty where nothing is.
        text: its lines, and in place of an inclusion the file's.
        included: files of the repository that it includes.
        follows: whether nothing but an empty line is between it and the block before it.
    """

    page: str
    line: int
    language: str
    text: str
    included: tuple[str, ...]
    follows: bool

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page}, line {self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    written = page.read_text()
    blocks = []
    end = 0
    for match in FENCE.finditer(written):
        blocks.append(
            Block(
                page=page.relative_to(DOCS).as_posix() if DOCS in page.parents else page.name,
                line=written.count("\n", 0, match.start("text")) + 1,
                language=match["language"].strip(),
                text=INCLUDED.sub(_included, dedent(match["text"])),
                included=tuple(INCLUDED.findall(match["text"])),
                follows=not written[end : match.start()].strip(),
            )
        )
        end = match.end()
    return blocks


def _included(match: re.Match[str]) -> str:
    return (ROOT / match["path"]).read_text().rstrip("\n")
