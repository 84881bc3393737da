import io
import statistics
from html.parser import HTMLParser

from rich.console import Console

from svdistill.common import Cell, Column, Table, columns, mean_std, number_cell, text_table

EVIL = "<script>alert(1)</script> | \"quoted\" & 'single'"
TABLE = Table(
    title="Accuracies",
    columns=columns("method", "accuracy %"),
    rows=((Cell(EVIL), number_cell(-91.5)), (Cell("all"), number_cell(None))),
    caption="in percent",
    notes=("One note.",),
    best=(0,),
    totals=1,
)


class Tags(HTMLParser):
    """The tags with their attributes, and the text in table cells."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


def printed(table: Table, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_html_shows_every_text_as_text_and_sorts_by_numbers() -> None:
    page = Tags(TABLE.to_html())
    assert page.texts == ["in percent", "method", "accuracy %", EVIL, "−91.50", "all", "–"]
    assert "script" not in [tag for tag, _ in page.tags]
    rows = [attributes for tag, attributes in page.tags if tag == "tr"]
    assert [row.get("class") for row in rows] == [None, "best", None]
    values = [attributes.get("data-value") for tag, attributes in page.tags if tag == "td"]
    assert values == ["-91.5", None]
    assert dict(page.tags)["table"] == {"class": "sortable"}
    assert dict(page.tags)["div"]["aria-label"] == "Accuracies: in percent"


def test_markdown_escapes_what_would_divide_a_cell() -> None:
    heading, rule, first, last = TABLE.to_markdown().splitlines()
    assert heading == "| method | accuracy % |"
    assert rule == "|---|---|"
    assert first == "| " + EVIL.replace("|", r"\|") + " | −91.50 |"
    assert last == "| all | – |"


def test_a_terminal_shows_title_rows_caption_and_notes() -> None:
    shown = printed(TABLE)
    words = ["Accuracies", "−91.50", "all", "in percent One note."]
    assert [shown.index(word) for word in words] == sorted(shown.index(word) for word in words)


def test_a_narrow_terminal_breaks_names_and_never_numbers() -> None:
    name = "position SVD + soft target, k = 4, amortised"
    row = (Cell(name), *(Cell(f"61.0{place} ± 1.41") for place in range(4)))
    table = Table("", columns("", *"abcd"), (row,))
    assert all(f"61.0{place} ± 1.41" in printed(table, width=70) for place in range(4))
    unbroken = Table("", (Column("", numeric=False, wrap=False),), ((Cell(name),),))
    assert name in printed(unbroken, width=50)


def test_a_table_of_text_has_no_numbers_and_no_order_of_its_own() -> None:
    table = text_table("Settings", ("setting", "here"), [("epochs", "24")])
    assert not table.sortable
    assert not any(column.numeric for column in table.columns)


def test_deviation_is_that_of_a_sample() -> None:
    values = [70.0, 71.5, 74.0]
    assert mean_std(values) == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert mean_std([70.0]) == "70.00"
