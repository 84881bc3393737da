"""Tables on the page."""

from html.parser import HTMLParser

from svdistill.common import Cell, Table, columns, number_cell
from svdistill.report.page import templates

EVIL = "<script>alert(1)</script> | \"quoted\" & 'single'"


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


def test_every_text_is_text_and_numbers_are_there_to_sort_by() -> None:
    rows = ((Cell(EVIL), number_cell(-91.5)), (Cell("all"), number_cell(None)))
    table = Table("Accuracies", columns("method", "accuracy %"), rows, "in percent", best=(0,))
    page = Tags(templates().get_template("table.html.j2").module.html(table))
    assert page.texts == ["in percent", "method", "accuracy %", EVIL, "−91.50", "all", "–"]
    assert "script" not in [tag for tag, _ in page.tags]
    lines = [attributes for tag, attributes in page.tags if tag == "tr"]
    assert [line.get("class") for line in lines] == [None, "best", None]
    values = [attributes.get("data-value") for tag, attributes in page.tags if tag == "td"]
    assert values == ["-91.5", None]
    assert dict(page.tags)["table"] == {"class": "sortable"}
    assert dict(page.tags)["div"]["aria-label"] == "Accuracies: in percent"
