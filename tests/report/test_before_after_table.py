import io
import re
from dataclasses import replace

from rich.console import Console

from svdistill.report.outcome import before_after_table
from svdistill.training.before_after import BeforeAfter, NetworkFigures

STUDENT = NetworkFigures(5.0, 923_000, 8_600_000, 3_692_000, 1.25)
MEASURED = BeforeAfter(
    test_images=2000,
    threads=2,
    teacher=NetworkFigures(75.05, 2_708_000, 144_900_000, 10_832_000, 11.5),
    before=STUDENT,
    after=replace(STUDENT, accuracy=64.7),
)


def shown(measured: BeforeAfter) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(before_after_table(measured).to_rich())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_row_says_how_good_a_network_is_and_what_it_costs() -> None:
    names = ("teacher", "student before", "student after")
    rows = [line.strip() for line in shown(MEASURED).splitlines() if line.strip().startswith(names)]
    assert [re.split(" {2,}", row) for row in rows] == [
        ["teacher", "75.05 (73.1-76.9)", "2.708M", "144.9M", "11.5 ms", "10.8 MB"],
        ["student before", "5.00 (4.1-6.0)", "0.923M", "8.6M", "1.2 ms", "3.7 MB"],
        ["student after", "64.70 (62.6-66.8)", "0.923M", "8.6M", "1.2 ms", "3.7 MB"],
    ]


def test_a_student_of_a_store_has_no_teachers_row() -> None:
    text = shown(replace(MEASURED, teacher=None))
    assert "teacher" not in text
    assert "2,000 test images" in text
    assert "2 threads" in text


def test_large_networks_fit_a_terminal_of_80_columns() -> None:
    large = NetworkFigures(81.25, 304_300_000, 123_200_000_000, 1_217_300_000, 1234.5)
    text = shown(replace(MEASURED, teacher=large))
    assert "123200.0M" in text
    assert "1217.3 MB" in text
