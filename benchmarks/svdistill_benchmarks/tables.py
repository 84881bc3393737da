"""Results as tables, for the terminal and for Markdown pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from svdistill.common import Measurement
from svdistill_benchmarks.dfv import DFVResult
from svdistill_benchmarks.step import StepResult
from svdistill_benchmarks.svd import SVDResult

STEP_HEADINGS = ("", "over the floor", "quartiles", "ms a step", "images/s")

SVD_HEADINGS = ("tap", "solver", "forward", "both", "IQR", "s", "V", "V^T V", "left")

DFV_HEADINGS = ("channels", "k", "", "ms", "IQR", "peak MB", "distance", "gradient")


@dataclass(frozen=True)
class Grid:
    """A table of text."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def step_grids(result: StepResult) -> list[Grid]:
    """A table for each teacher and student; the floor is its last row."""
    return [
        Grid(
            f"{table.teacher} to {table.student}, batch {result.batch_size}, {result.images}",
            STEP_HEADINGS,
            [
                _step_cells(row.name, row.over_floor, row.seconds, result.batch_size)
                for row in table.rows
            ]
            + [
                _step_cells(
                    "floor", table.floor.ratios_to(table.floor), table.floor, result.batch_size
                )
            ],
        )
        for table in result.tables
    ]


def svd_grids(result: SVDResult) -> list[Grid]:
    """A table for each network."""
    return [
        Grid(
            f"{network}, batch {result.batch_size}, k = 2, {result.features}; ms and errors",
            SVD_HEADINGS,
            [
                (
                    f"{row.tap} {row.positions}x{row.channels}",
                    f"`{row.solver}`",
                    _milliseconds(row.forward.median),
                    _milliseconds(row.both_ways.median),
                    _spread(row.both_ways),
                    f"{row.value_error:.0e}",
                    f"{row.vector_error:.0e}",
                    f"{row.orthonormality_error:.0e}",
                    str(row.again),
                )
                for row in result.rows
                if row.network == network
            ],
        )
        for network in dict.fromkeys(row.network for row in result.rows)
    ]


def dfv_grids(result: DFVResult) -> list[Grid]:
    """One table."""
    rows = [
        (
            f"{row.front}x{row.back}",
            str(row.vectors),
            row.way,
            _milliseconds(row.seconds.median),
            _spread(row.seconds),
            f"{row.peak_bytes / 1e6:.0f}",
            f"{row.value_error:.0e}",
            f"{row.gradient_error:.0e}",
        )
        for row in result.rows
    ]
    return [
        Grid(
            f"distance of DFVs, both ways, batch {result.batch_size}; time, memory and errors",
            DFV_HEADINGS,
            rows,
        )
    ]


def grids(result: StepResult | SVDResult | DFVResult) -> list[Grid]:
    """The tables of any result."""
    if isinstance(result, StepResult):
        return step_grids(result)
    return svd_grids(result) if isinstance(result, SVDResult) else dfv_grids(result)


def to_rich(grid: Grid) -> Table:
    """A table for a rich console."""
    table = Table(title=grid.title, title_justify="left", box=SIMPLE, padding=0)
    for place, heading in enumerate(grid.headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(cell.strip("`") for cell in row))
    return table


def to_markdown(grid: Grid) -> str:
    """A Markdown table, without the title.

    Example:
        >>> print(to_markdown(Grid("", ("", "ms"), [("floor", "1.0")])))
        |  | ms |
        |---|---|
        | floor | 1.0 |
    """
    lines = [_line(grid.headings), "|" + "---|" * len(grid.headings)]
    return "\n".join(lines + [_line(row) for row in grid.rows])


def footnotes(result: StepResult | SVDResult | DFVResult) -> list[str]:
    """What was left out, and where the rest was measured."""
    where = result.machine
    processor = f"{where['cpu']}, {where['threads']} threads ({where['cpu_capability']})"
    measured = (
        f"Measured on {where['gpu'] or processor}, torch {where['packages']['torch']}, "
        f"{result.rounds} rounds, {where['date']}."
    )
    left_out = result.left_out if isinstance(result, StepResult) else ()
    return [*left_out, measured]


def _step_cells(
    name: str, ratio: Measurement, seconds: Measurement, batch_size: int
) -> tuple[str, ...]:
    return (
        name,
        f"{ratio.median:.2f}",
        f"{ratio.lower_quartile:.2f} to {ratio.upper_quartile:.2f}",
        _milliseconds(seconds.median),
        f"{batch_size / seconds.median:,.0f}",
    )


def _milliseconds(seconds: float) -> str:
    """Three digits or more."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(measurement: Measurement) -> str:
    """The interquartile range, as a share of the median."""
    width = measurement.upper_quartile - measurement.lower_quartile
    return f"{100 * width / measurement.median:.0f} %"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
