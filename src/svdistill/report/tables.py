"""Tables of networks, of runs by method, and of the networks of one distillation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from svdistill.common import (
    Cell,
    Column,
    Table,
    columns,
    counted,
    mean_cell,
    millions_cell,
    number_cell,
)
from svdistill.networks import NetworkDescription
from svdistill.runs import RunSummary
from svdistill.training import BeforeAfter


def network_table(network: NetworkDescription) -> Table:
    """A table of one network, with a row for each part that tells whether the part is a tap.

    Args:
        network: the description that `describe_network` returns.
    """
    rows = [
        (
            Cell(stage.path),
            Cell("tap" if stage.is_tap else ""),
            Cell("x".join(map(str, stage.shape))),
            number_cell(stage.parameters, "{:,}"),
            millions_cell(stage.flops),
        )
        for stage in network.stages
    ]
    size, published = network.profile, network.published
    total = (number_cell(size.parameters, "{:,}"), millions_cell(size.flops))
    rows.append((Cell("all"), Cell(""), Cell(""), *total))
    note = "FLOPs = 2 x multiply-adds of one image."
    if published is not None:
        total = (millions_cell(published.parameters, digits=2), millions_cell(published.flops))
        rows.append((Cell("paper's table"), Cell(""), Cell(""), *total))
        note += f" Deviation: {published.deviation}." if published.deviation else ""
    side = network.image_size
    return Table(
        title=f"{network.name}, {network.num_classes} classes, width {network.width:g}, "
        f"images 3x{side}x{side}",
        columns=(Column("part", numeric=False), *columns("tap", "output", "parameters", "FLOPs")),
        rows=tuple(rows),
        notes=(note,),
        totals=len(rows) - len(network.stages),
    )


def networks_table(networks: Sequence[NetworkDescription]) -> Table:
    """A table of several networks, with a row for each network and the shapes of its taps.

    Args:
        networks: the descriptions that `describe_network` returns.
    """
    rows = []
    for network in networks:
        size, published = network.profile, network.published
        parameters, flops = Cell(""), Cell("")
        if published is not None:
            parameters = millions_cell(published.parameters, digits=2)
            flops = millions_cell(published.flops)
        shapes = " ".join("x".join(map(str, shape)) for _, shape in size.taps)
        rows.append(
            (
                Cell(network.name),
                millions_cell(size.parameters, digits=2),
                parameters,
                millions_cell(size.flops),
                flops,
                Cell(shapes),
            )
        )
    numeric = ("parameters", "paper", "FLOPs", "paper")
    return Table(
        "Networks (FLOPs = 2 x multiply-adds)",
        (
            Column("network", numeric=False, wrap=False),
            *map(Column, numeric),
            Column("taps", numeric=False),
        ),
        tuple(rows),
    )


@dataclass(frozen=True)
class MethodRow:
    """The results of one method's runs: a row of `run_table`.

    Attributes:
        method: the method's name.
        last, best: test accuracy of each run in percent, after the last and after the best epoch.
        parameters: number of the network's parameters.
        flops: FLOPs of the network for one image.
    """

    method: str
    last: tuple[float, ...]
    best: tuple[float, ...]
    parameters: int
    flops: int


def method_rows(runs: Iterable[tuple[str, RunSummary]]) -> list[MethodRow]:
    """Group the summaries of runs by method, in the order in which methods first appear.

    Args:
        runs: pairs of a method's name and a run's summary.

    Returns:
        A row for each method.
    """
    groups: dict[str, list[RunSummary]] = {}
    for method, summary in runs:
        groups.setdefault(method, []).append(summary)
    return [
        MethodRow(
            method,
            tuple(run.last_accuracy for run in summaries),
            tuple(run.best_accuracy for run in summaries),
            summaries[0].parameters,
            summaries[0].flops,
        )
        for method, summaries in groups.items()
    ]


def run_table(rows: Sequence[MethodRow], title: str = "") -> Table:
    """A table with one row for each method, for the terminal or as Markdown.

    Example:
        >>> rows = [MethodRow("SVD", (90.0, 92.0), (91.0, 93.0), 50154, 1413120)]
        >>> print(run_table(rows).to_markdown())
        |  | accuracy % | best epoch % | parameters | FLOPs | seeds |
        |---|---|---|---|---|---|
        | SVD | 91.00 ± 1.41 | 92.00 ± 1.41 | 0.050M | 1.4M | 2 |
    """
    cells = (
        (
            Cell(row.method),
            mean_cell(row.last),
            mean_cell(row.best),
            millions_cell(row.parameters, digits=3),
            millions_cell(row.flops),
            number_cell(len(row.last), "{}"),
        )
        for row in rows
    )
    headings = ("accuracy %", "best epoch %", "parameters", "FLOPs", "seeds")
    return Table(title, columns("", *headings), tuple(cells))


def wilson_interval(percent: float, images: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy in percent, measured on a number of images.

    It accounts for the choice of test images, for the same network; it does not account for the
    variation between trainings.

    Example:
        >>> [round(bound, 1) for bound in wilson_interval(90.0, 100)]
        [82.6, 94.5]

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    1927.
    """
    from scipy.stats import binomtest

    right = round(percent * images / 100)
    low, high = binomtest(right, images).proportion_ci(method="wilson")
    return 100 * float(low), 100 * float(high)


def before_after_table(measured: BeforeAfter, title: str = "", teacher: str = "") -> Table:
    """A table of accuracy and cost of the teacher, and of the student before and after training.

    Args:
        measured: the figures that a distillation recorded.
        title: title of the table.
        teacher: name of the teacher's network.
    """
    rows = []
    for name, figures in measured.rows().items():
        rows.append(
            (
                Cell(f"teacher {teacher}".strip() if name == "teacher" else name),
                _accuracy_cell(figures.accuracy, measured.test_images),
                millions_cell(figures.parameters, digits=3),
                millions_cell(figures.flops),
                number_cell(figures.milliseconds, "{:.1f} ms"),
                number_cell(figures.bytes / 1e6, "{:.1f} MB"),
            )
        )
    headings = ("accuracy % (95 %)", "parameters", "FLOPs", "latency", "file")
    return Table(
        title=title,
        columns=columns("network", *headings),
        rows=tuple(rows),
        caption=f"Accuracy on {measured.test_images:,} test images, with its 95 % interval; "
        f"latency of one image on the CPU, {counted(measured.threads, 'thread')}, the median",
        best=(len(rows) - 1,),
        sortable=False,
    )


def _accuracy_cell(accuracy: float | None, images: int) -> Cell:
    if accuracy is None:
        return Cell("other classes")
    low, high = wilson_interval(accuracy, images)
    return Cell(f"{accuracy:.2f} ({low:.1f}-{high:.1f})", accuracy)
