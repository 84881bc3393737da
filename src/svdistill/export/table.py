"""What came out of an export, for a person to read."""

from __future__ import annotations

import torch
from rich.table import Table

from svdistill.export.exporting import ExportReport


def export_table(report: ExportReport) -> Table:
    """Size and latency of an exported network beside the one that it was made from.

    Args:
        report: as `export_student` returns it.

    Returns:
        A table for a rich console.
    """
    table = Table(report.metadata.network)
    table.add_column("PyTorch", justify="right")
    table.add_column(report.runtime, justify="right")
    table.add_row("parameters", f"{report.parameters:,}", f"{report.parameters:,}")
    table.add_row("file", _megabytes(report.stored_bytes), _megabytes(report.file_bytes))
    for latency in report.latencies:
        original, exported = (
            f"{1e3 * measured.median:.2f} ms" for measured in (latency.original, latency.exported)
        )
        table.add_row(f"batch of {latency.batch_size}", original, exported)
    return table


def export_notes(report: ExportReport) -> list[str]:
    """What the table does not say, in sentences."""
    known, parity, threads = report.metadata, report.parity, torch.get_num_threads()
    notes = [
        f"{len(known.class_names)} classes, images 3x{known.image_size}x{known.image_size}, "
        "batches of any size.",
        f"The same class for {parity.images} of {parity.images} test images; logits differ by at "
        f"most {parity.difference:.2g} of the largest.",
        f"Times are medians on the CPU, {threads} thread{'s' if threads > 1 else ''}, in turn.",
    ]
    if report.stored_dtypes != ("float32",):
        stored = " and ".join(report.stored_dtypes)
        notes.append(f"The run's weights are stored as {stored}; the exported file is float32.")
    return notes


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
