"""The report of an export: size, accuracy and latency of the file beside its network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from svdistill.common import Cell, Table, columns, number_cell, read_plain, write_json
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
    """Size, accuracy and latency of an exported file beside its network."""
    compared = report.columns
    parameters = [number_cell(report.parameters, "{:,}")] * len(compared)
    sizes = [number_cell(column.file_bytes / 1e6, "{:.2f} MB") for column in compared]
    accuracies = [number_cell(column.accuracy, "{:.2f} %") for column in compared]
    times = [
        (
            Cell(f"batch of {latency.batch_size}"),
            *(number_cell(1e3 * one.median, "{:.2f} ms") for one in latency.times.values()),
        )
        for latency in report.latencies
    ]
    return Table(
        report.metadata.network,
        columns("", *(column.title for column in compared)),
        (
            (Cell("parameters"), *parameters),
            (Cell("file"), *sizes),
            (Cell("accuracy"), *accuracies),
            *times,
        ),
    )


@dataclass(frozen=True)
class ShippedFile:
    """What is kept of an export, as JSON beside the file.

    Attributes:
        name: of the file.
        runtime: what ran it.
        precision: ``"float32"``, ``"fp16"`` or ``"int8"``.
        bytes: its size.
        accuracy: percentage of the compared test images, whose number is `images`.
        milliseconds: median latency of one image on the CPU; None if it took too long to measure.
        threads: of torch.
    """

    name: str
    runtime: str
    precision: str
    bytes: int
    accuracy: float
    images: int
    milliseconds: float | None
    threads: int


SUFFIX = ".json"  # added to the name of the file


def write_shipped_file(report: ExportReport) -> None:
    """Write what an export measured as JSON beside the file."""
    column, path = report.columns[-1], report.path
    single = [latency for latency in report.latencies if latency.batch_size == 1]
    shipped = ShippedFile(
        name=path.name,
        runtime="ONNX Runtime" if path.suffix == ".onnx" else column.title,
        precision=report.metadata.precision,
        bytes=column.file_bytes,
        accuracy=column.accuracy,
        images=report.parity.images,
        milliseconds=1e3 * single[0].times[column.title].median if single else None,
        threads=torch.get_num_threads(),
    )
    write_json(path.with_name(path.name + SUFFIX), asdict(shipped))


def read_shipped_files(folder: str | Path) -> tuple[ShippedFile, ...]:
    """The measurements of the exported files in a folder, the fastest first.

    Raises:
        RunError: a damaged file.
    """
    files = [
        read_plain(
            path,
            ShippedFile,
            expected="what an export measured",
            remedy="remove it, or export again",
        )
        for suffix in (".onnx", ".pt2")
        for path in sorted(Path(folder).glob(f"*{suffix}{SUFFIX}"))
    ]
    return tuple(sorted(files, key=lambda file: (file.milliseconds is None, file.milliseconds)))


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
