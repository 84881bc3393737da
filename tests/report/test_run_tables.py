import io
import statistics

from rich.console import Console

from svdistill.common import mean_std
from svdistill.report import MethodRow, method_rows, run_table
from svdistill.runs import RunSummary


def summary(last, best, seed):
    return RunSummary(
        directory=f"runs/{seed}",
        kind="train",
        network="vgg_student",
        width=1.0,
        loss=None,
        seed=seed,
        last_accuracy=last,
        best_accuracy=best,
        best_epoch=3,
        best_by="test",
        teacher_accuracy=None,
        parameters=3_751_652,
        flops=121_184_256,
        epochs=5,
        seconds=1.0,
        num_classes=100,
        image_size=32,
    )


def test_runs_are_gathered_by_method_in_first_come_order():
    runs = [("b", summary(1, 2, 0)), ("a", summary(3, 4, 0)), ("b", summary(5, 6, 1))]
    rows = method_rows(runs)
    assert [row.method for row in rows] == ["b", "a"]
    assert rows[0].last == (1, 5)
    assert rows[0].best == (2, 6)
    assert rows[1].parameters == 3_751_652


def test_deviation_is_that_of_a_sample():
    values = [70.0, 71.5, 74.0]
    assert mean_std(values) == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert mean_std([70.0]) == "70.00"


def test_a_narrow_terminal_shows_every_number_whole():
    name = "position SVD + soft target, k = 4, amortised"
    rows = [MethodRow(name, (60.0, 62.0), (61.0, 63.0), 50_154, 1_413_120)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(run_table(rows, "Title").to_rich())
    shown = console.export_text()
    assert "61.00 ± 1.41" in shown
    assert "…" not in shown
    assert all(word in shown for word in name.split())


def test_console_and_markdown_show_the_same_cells():
    rows = [MethodRow("SVD", (60.0, 62.0), (61.0, 63.0), 50_154, 1_413_120)]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(run_table(rows, "Title").to_rich())
    shown = console.export_text()
    cells = [
        cell.strip() for cell in run_table(rows).to_markdown().splitlines()[2].strip("|").split("|")
    ]
    assert cells[0] == "SVD"
    assert all(cell in shown for cell in cells)
    assert "Title" in shown
