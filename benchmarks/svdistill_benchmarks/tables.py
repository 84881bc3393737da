"""Results as tables, for the terminal and for Markdown pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from svdistill.common import Cell, Column, Measurement, Table, columns, number_cell, text_table
from svdistill_benchmarks.dfv import DFVResult
from svdistill_benchmarks.growth import GrowthResult
from svdistill_benchmarks.step import NetworkSteps, StepResult, StepRow
from svdistill_benchmarks.step_rows import DEFAULT, FROM_STORE, METHODS, SVD
from svdistill_benchmarks.svd import SVDResult

Result = StepResult | SVDResult | DFVResult | GrowthResult

NAMES = {"vgg_teacher": "VGG", "mobilenet_teacher": "MobileNet"}


# Rows of the short table.
SUMMARY = ("soft target, by hand", "FSP", SVD, DEFAULT, DEFAULT + FROM_STORE)


def step_tables(result: StepResult) -> list[Table]:
    """A table for each pair, and for memory kept or not; its last row is the floor."""
    return [
        _table(
            f"{table.teacher} to {table.student}, batch {result.batch_size}, {result.images}, "
            f"memory {'kept' if table.keeps_memory else 'not kept'}",
            columns("", "floors", "quartiles", "ms a step", "images/s", "bytes"),
            [_step_cells(row, result.batch_size) for row in (*table.rows, _floor(table))],
        )
        for table in result.tables
    ]


def _floor(table: NetworkSteps) -> StepRow:
    return StepRow("floor", table.floor, table.floor.ratios_to(table.floor), ())


def _step_cells(row: StepRow, batch_size: int) -> list[Cell]:
    ratio, seconds = row.over_floor, row.seconds.median
    return [
        Cell(row.name),
        number_cell(ratio.median),
        Cell(f"{ratio.lower_quartile:.2f} to {ratio.upper_quartile:.2f}"),
        _milliseconds(seconds),
        number_cell(batch_size / seconds, "{:,.0f}"),
        number_cell(row.store_bytes, "{:,}") if row.store_bytes else Cell(""),
    ]


def summary_table(result: StepResult) -> Table:
    """Steps of some methods over a plain student's, for every pair, and the bytes of a store.

    With memory kept, as the commands that train do, where that was measured.
    """
    kept = [table for table in result.tables if table.keeps_memory]
    tables = kept or result.tables
    known = {row.name: row for row in tables[0].rows}
    rows = []
    for name in SUMMARY:
        if name in known:
            sizes = [row.store_bytes for table in tables for row in table.rows if row.name == name]
            stored = " / ".join(f"{size:,}" for size in sizes if size)
            times = (number_cell(table.times_plain(name)) for table in tables)
            rows.append([Cell(name), *times, Cell(stored)])
    pairs = (NAMES[table.teacher] for table in tables)
    return _table("", columns("", *pairs, "bytes in a store"), rows)


def growth_tables(result: GrowthResult) -> list[Table]:
    """A table for each thing that grows: ms of a step of each method."""
    made = []
    for axis in dict.fromkeys(point.axis for point in result.points):
        points = [point for point in result.points if point.axis == axis]
        rest = ", ".join(f"{name} {size:g}" for name, size in result.base.items() if name != axis)
        title = f"ms a step by {axis}; {result.network}, {rest}, {result.images}"
        rows = [
            [Cell(method), *(_milliseconds(point.steps[place].median) for point in points)]
            for place, method in enumerate(result.methods)
        ]
        made.append(_table(title, columns(axis, *(f"{point.value:g}" for point in points)), rows))
    return made


def svd_tables(result: SVDResult) -> list[Table]:
    """A table for each network."""
    texts = tuple(Column(heading, numeric=False) for heading in ("tap", "solver"))
    numbers = columns("", "forward", "both", "IQR", "s", "V", "V^T V", "left")[1:]
    return [
        _table(
            f"{network}, batch {result.batch_size}, k = 2, {result.features}; ms and errors",
            texts + numbers,
            [
                [
                    Cell(f"{row.tap} {row.positions}x{row.channels}"),
                    Cell(row.solver),
                    _milliseconds(row.forward.median),
                    _milliseconds(row.both_ways.median),
                    _spread(row.both_ways),
                    *map(_error, (row.value_error, row.vector_error, row.orthonormality_error)),
                    Cell(str(row.again), row.again),
                ]
                for row in result.rows
                if row.network == network
            ],
        )
        for network in dict.fromkeys(row.network for row in result.rows)
    ]


def dfv_tables(result: DFVResult) -> list[Table]:
    """One table."""
    texts = tuple(Column(heading, numeric=False) for heading in ("channels", "k", ""))
    numbers = columns("", "ms", "IQR", "peak MB", "distance", "gradient")[1:]
    rows = [
        [
            Cell(f"{row.front}x{row.back}"),
            Cell(str(row.vectors)),
            Cell(row.way),
            _milliseconds(row.seconds.median),
            _spread(row.seconds),
            number_cell(row.peak_bytes / 1e6, "{:.0f}"),
            *map(_error, (row.value_error, row.gradient_error)),
        ]
        for row in result.rows
    ]
    title = f"distance of DFVs, both ways, batch {result.batch_size}; time, memory and errors"
    return [_table(title, texts + numbers, rows)]


def result_tables(result: Result) -> list[Table]:
    """The tables of any result."""
    if isinstance(result, StepResult):
        return step_tables(result)
    if isinstance(result, GrowthResult):
        return growth_tables(result)
    return svd_tables(result) if isinstance(result, SVDResult) else dfv_tables(result)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text."""
    return text_table("", headings, list(rows)).to_markdown()


def footnotes(result: Result) -> list[str]:
    """What was left out, and where the rest was measured."""
    where = result.machine
    threads = f"{where['threads']} thread{'s' * (where['threads'] != 1)}"
    processor = f"{where['cpu']}, {threads} ({where['cpu_capability']})"
    load = f", load {where['load']}" if where.get("load") is not None else ""
    measured = (
        f"Measured on {where['gpu'] or processor}, torch {where['packages']['torch']}, "
        f"{result.rounds} round{'s' * (result.rounds != 1)}, {where['date']}{load}."
    )
    return [*(_left_out(result) if isinstance(result, StepResult) else ()), measured]


def _left_out(result: StepResult) -> list[str]:
    """What was not measured: by the machine, or by an earlier version."""
    measured = {row.name for table in result.tables for row in table.rows}
    missing = [name for name in METHODS if name not in measured]
    return [*result.left_out, *([f"Not measured yet: {', '.join(missing)}."] if missing else [])]


def _table(title: str, heads: tuple[Column, ...], rows: Sequence[Sequence[Cell]]) -> Table:
    return Table(title, heads, tuple(map(tuple, rows)), sortable=False)


def _milliseconds(seconds: float) -> Cell:
    """Three digits or more."""
    value = 1e3 * seconds
    return number_cell(value, "{:,.0f}" if value >= 100 else "{:.3g}")


def _error(error: float) -> Cell:
    return Cell(f"{error:.0e}", error)


def _spread(measurement: Measurement) -> Cell:
    """The interquartile range, as a share of the median."""
    width = measurement.upper_quartile - measurement.lower_quartile
    return number_cell(100 * width / measurement.median, "{:.0f} %")
