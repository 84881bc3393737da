"""A distillation's teacher, student before and student after, as a table for a person to read."""

from __future__ import annotations

from rich import box
from rich.table import Table

from svdistill.report.intervals import wilson_interval
from svdistill.report.network_tables import millions
from svdistill.training.before_after import BeforeAfter, NetworkFigures

HEADINGS = ("", "accuracy % (95 %)", "parameters", "FLOPs", "latency", "file")


def before_after_table(measured: BeforeAfter) -> Table:
    """The table for a rich console."""
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        box=box.SIMPLE,
        caption=before_after_note(measured),
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for cells in before_after_rows(measured):
        table.add_row(*cells)
    return table


def before_after_rows(measured: BeforeAfter) -> list[tuple[str, ...]]:
    """The cells, a row for each network that there is."""
    return [
        (name, *_cells(figures, measured.test_images)) for name, figures in measured.rows().items()
    ]


def before_after_note(measured: BeforeAfter) -> str:
    """What was measured, and on what."""
    threads = f"{measured.threads} thread{'s' if measured.threads > 1 else ''}"
    return (
        f"accuracy on {measured.test_images:,} test images, with its 95 % interval; latency of one "
        f"image on the CPU, {threads}, the median"
    )


def _cells(figures: NetworkFigures, images: int) -> tuple[str, ...]:
    low, high = wilson_interval(figures.accuracy, images)
    return (
        f"{figures.accuracy:.2f} ({low:.1f}-{high:.1f})",
        millions(figures.parameters, digits=3),
        millions(figures.flops),
        f"{figures.milliseconds:.1f} ms",
        f"{figures.bytes / 1e6:.1f} MB",
    )
