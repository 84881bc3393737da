"""Results as tables, for the terminal and for Markdown pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from svdistill.common import Cell, Column, Measurement, Table
from svdistill_benchmarks.dfv import DFVResult
from svdistill_benchmarks.step import StepResult
from svdistill_benchmarks.svd import SVDResult

STEP_HEADINGS = ("", "over the floor", "quartiles", "ms a step", "images/s")

SVD_HEADINGS = ("tap", "solver", "forward", "both", "IQR", "s", "V", "V^T V", "left")

DFV_HEADINGS = ("channels", "k", "", "ms", "IQR", "peak MB", "distance", "gradient")


def step_tables(result: StepResult) -> list[Table]:
    """A table for each teacher and student; the floor is its last row."""
    return [
        _table(
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


def svd_tables(result: SVDResult) -> list[Table]:
    """A table for each network."""
    return [
        _table(
            f"{network}, batch {result.batch_size}, k = 2, {result.features}; ms and errors",
            SVD_HEADINGS,
            [
                (
                    f"{row.tap} {row.positions}x{row.channels}",
                    row.solver,
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


def dfv_tables(result: DFVResult) -> list[Table]:
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
        _table(
            f"distance of DFVs, both ways, batch {result.batch_size}; time, memory and errors",
            DFV_HEADINGS,
            rows,
        )
    ]


def result_tables(result: StepResult | SVDResult | DFVResult) -> list[Table]:
    """The tables of any result."""
    if isinstance(result, StepResult):
        return step_tables(result)
    return svd_tables(result) if isinstance(result, SVDResult) else dfv_tables(result)


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


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of text: names on the left, numbers on the right."""
    first, *others = headings
    columns = (Column(first, numeric=False, wrap=False), *map(Column, others))
    return Table(title, columns, tuple(tuple(map(Cell, row)) for row in rows))
