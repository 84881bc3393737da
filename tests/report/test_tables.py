import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console
from scipy.special import ndtri

from svdistill.networks import describe_network, network_names
from svdistill.report import MethodRow, method_rows, network_table, networks_table, run_table
from svdistill.report.tables import before_after_table, wilson_interval
from svdistill.runs import RunSummary
from svdistill.training import BeforeAfter, NetworkFigures


def text(table, width=110):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("name", ["vgg_teacher", "mobilenet_student"])
def test_one_network_shows_its_parts_sum_and_deviation(name):
    network = describe_network(name)
    shown = text(network_table(network))
    for stage in network.stages:
        assert stage.path in shown
        assert f"{stage.parameters:,}" in shown
    assert f"{network.profile.parameters:,}" in shown
    assert "paper's table" in shown
    assert ("Deviation:" in shown) == bool(network.published.deviation)


def test_other_settings_are_not_compared_with_the_published_ones():
    shown = text(network_table(describe_network("vgg_student", num_classes=10)))
    assert "paper's table" not in shown


def test_all_networks_have_a_row_with_an_unbroken_name():
    shown = text(networks_table([describe_network(name) for name in network_names()]), width=80)
    for name in network_names():
        assert f" {name} " in shown


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


def test_a_narrow_terminal_shows_every_number_whole():
    name = "position SVD + soft target, k = 4, amortised"
    rows = [MethodRow(name, (60.0, 62.0), (61.0, 63.0), 50_154, 1_413_120)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(run_table(rows, "Title"))
    shown = console.export_text()
    assert "61.00 ± 1.41" in shown
    assert "…" not in shown
    assert all(word in shown for word in name.split())


def test_console_and_markdown_show_the_same_cells():
    rows = [MethodRow("SVD", (60.0, 62.0), (61.0, 63.0), 50_154, 1_413_120)]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(run_table(rows, "Title"))
    shown = console.export_text()
    cells = [
        cell.strip() for cell in run_table(rows).to_markdown().splitlines()[2].strip("|").split("|")
    ]
    assert cells[0] == "SVD"
    assert all(cell in shown for cell in cells)
    assert "Title" in shown


SMALL = NetworkFigures(5.0, 923_000, 8_600_000, 3_692_000, 1.25)
FIGURES = BeforeAfter(
    test_images=2000,
    threads=2,
    teacher=NetworkFigures(75.05, 2_708_000, 144_900_000, 10_832_000, 11.5),
    before=SMALL,
    after=replace(SMALL, accuracy=64.7),
)


def shown(measured: BeforeAfter) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(before_after_table(measured))
    return console.file.getvalue()


def test_a_row_says_how_good_a_network_is_and_what_it_costs() -> None:
    names = ("teacher", "student before", "student after")
    rows = [line.strip() for line in shown(FIGURES).splitlines() if line.strip().startswith(names)]
    assert [re.split(" {2,}", row) for row in rows] == [
        ["teacher", "75.05 (73.1-76.9)", "2.708M", "144.9M", "11.5 ms", "10.8 MB"],
        ["student before", "5.00 (4.1-6.0)", "0.923M", "8.6M", "1.2 ms", "3.7 MB"],
        ["student after", "64.70 (62.6-66.8)", "0.923M", "8.6M", "1.2 ms", "3.7 MB"],
    ]


def test_a_student_of_a_store_has_no_teachers_row() -> None:
    text = shown(replace(FIGURES, teacher=None))
    assert "teacher" not in text
    assert "2,000 test images" in text
    assert "2 threads" in text


def test_large_networks_fit_a_terminal_of_80_columns() -> None:
    large = NetworkFigures(81.25, 304_300_000, 123_200_000_000, 1_217_300_000, 1234.5)
    text = shown(replace(FIGURES, teacher=large))
    assert "123200.0M" in text
    assert "1217.3 MB" in text


@pytest.mark.parametrize(
    ("right", "images"), [(0, 5), (1, 1), (37, 50), (1999, 2000), (9000, 10000)]
)
def test_the_bounds_solve_wilsons_equation(right: int, images: int) -> None:
    """At a bound p the share found is z standard deviations of p away, or p is at an end."""
    share, z = right / images, float(ndtri(0.975))
    for bound in wilson_interval(100 * share, images):
        p = bound / 100
        assert (share - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / images, abs=1e-9)


def test_it_narrows_with_the_root_of_the_images() -> None:
    few, many = (wilson_interval(70.0, images) for images in (1_000, 100_000))
    ratio = (few[1] - few[0]) / (many[1] - many[0])
    assert math.isclose(ratio, 10, rel_tol=0.01)
