"""The report of an export: size, accuracy and latency of the file beside its network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from svdistill.export.checks import TOLERANCES, BatchLatency, Parity
from svdistill.export.metadata import ExportMetadata


@dataclass(frozen=True)
class ReportColumn:
    """One of the compared networks.

    Attributes:
        title: what runs it.
        file_bytes: size of its file.
        accuracy: percentage of the compared test images.
    """

    title: str
    file_bytes: int
    accuracy: float


@dataclass(frozen=True)
class ExportReport:
    """An exported file, and how it compares with the network in PyTorch.

    Attributes:
        path: the file.
        metadata: that the file carries.
        parameters: number of weights.
        stored_dtypes: of the weights in the run's own file.
        columns: the compared networks; the run's in PyTorch first, the exported file last.
        parity: agreement of the logits of the file with PyTorch's.
        latencies: by batch size, under the titles of the columns.
    """

    path: Path
    metadata: ExportMetadata
    parameters: int
    stored_dtypes: tuple[str, ...]
    columns: tuple[ReportColumn, ...]
    parity: Parity
    latencies: tuple[BatchLatency, ...]


def export_table(report: ExportReport) -> Table:
    """Size, accuracy and latency of an exported file beside its network, for a rich console."""
    table = Table(report.metadata.network)
    for column in report.columns:
        table.add_column(column.title, justify="right")
    table.add_row("parameters", *[f"{report.parameters:,}"] * len(report.columns))
    table.add_row("file", *(f"{column.file_bytes / 1e6:.2f} MB" for column in report.columns))
    table.add_row("accuracy", *(f"{column.accuracy:.2f} %" for column in report.columns))
    for latency in report.latencies:
        times = (f"{1e3 * measured.median:.2f} ms" for measured in latency.times.values())
        table.add_row(f"batch of {latency.batch_size}", *times)
    return table


def export_notes(report: ExportReport) -> list[str]:
    """Sentences that complete the table."""
    known, parity, threads = report.metadata, report.parity, torch.get_num_threads()
    scaled = "uint8" if known.input_dtype == "uint8" else "normalised float32"
    notes = [
        f"{len(known.class_names)} classes, {scaled} images "
        f"3x{known.image_size}x{known.image_size}, batches of any size.",
        f"The same class for {parity.images - parity.changed} of {parity.images} test images; "
        f"logits differ by at most {parity.difference:.2g} of the largest{_tolerance(known)}.",
        f"Times are medians on the CPU, {threads} thread{'s' if threads > 1 else ''}, in turn.",
    ]
    if report.stored_dtypes != (_DTYPES.get(known.precision, "float32"),):
        stored = " and ".join(report.stored_dtypes)
        notes.append(f"The run's weights are {stored}; those of the file are {known.precision}.")
    return notes


_DTYPES = {"float32": "float32", "fp16": "float16"}


def _tolerance(metadata: ExportMetadata) -> str:
    """The tolerance of the comparison, if it differs from float32's."""
    if metadata.precision not in TOLERANCES or metadata.precision == "float32":
        return ""
    return f" (tolerance {TOLERANCES[metadata.precision][0]:g})"
