import io

import pytest
from rich.table import Table
from rich.text import Text

from svdistill.common.table import TextConsole, shown

HOSTILE = "[/INST] [link=x]dog[/link] :cat: \x1b]0;title\x07\x1b[2J \x9b31m \u202egnp.exe"
WRITTEN = r"[/INST] [link=x]dog[/link] :cat: \x1b]0;title\x07\x1b[2J \x9b31m \u202egnp.exe"


def printed(content):
    console = TextConsole(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(content, highlight=False)
    return console.file.getvalue()


def table():
    table = Table("column")
    table.add_row(HOSTILE)
    return table


@pytest.mark.parametrize("content", [HOSTILE, Text(HOSTILE), table()], ids=["str", "text", "table"])
def test_names_are_text_wherever_they_are_printed(content):
    found = printed(content)
    assert WRITTEN in found or isinstance(content, Text)
    assert r"\x1b[2J" in found
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(found)


def test_a_table_stays_straight():
    assert len({len(line) for line in printed(table()).splitlines()}) == 1


@pytest.mark.parametrize("text", ["a line\n\tand another", "na\u00efve \u732b", "a\u200cb"])
def test_what_is_text_stays(text):
    assert shown(text) == text
