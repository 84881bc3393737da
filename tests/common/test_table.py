import io
import statistics

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


def printed(table: Table, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


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
