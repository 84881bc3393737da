"""Compare an exported file with its network, and report it: logits, accuracy, size, latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from svdistill.common import (
    Case,
    Cell,
    Measurement,
    RunError,
    Table,
    columns,
    counted,
    interleave,
    number_cell,
    read_plain,
    write_json,
)
from svdistill.export.exported import ExportMetadata
from svdistill.export.formats import BATCH_SIZE

# For each precision, the largest accepted difference of the logits, relative to the largest
# magnitude of a logit, and the largest accepted share of images with another predicted class.
TOLERANCES: Final = {"float32": (1e-4, 0.0), "fp16": (1e-2, 0.01)}

LATENCY_BATCH_SIZES: Final = (1, 32)

ROUNDS: Final = 30

MIN_ROUNDS: Final = 3

SECONDS: Final = 5.0  # the longest time to spend on measuring the latency of one batch size

Latencies = dict[int, dict[str, Measurement]]


@torch.inference_mode()
def logits_of(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Classify images in batches of 1, 7 and then 32, to test several batch sizes."""
    first, few, rest = images.tensor_split((1, 8))
    batches = (batch for batch in (first, few, *rest.split(BATCH_SIZE)) if len(batch))
    return torch.cat([network(batch) for batch in batches])


@dataclass(frozen=True)
class Parity:
    """How far the logits of an exported network are from those of the original network.

    ``difference = max |exported - original| / max |original|``, where both maxima are over all
    logits of all images.

    Attributes:
        images: number of compared images.
        difference: the largest difference of two logits, relative to the largest magnitude.
        changed: number of images for which the two networks predict different classes.
    """

    images: int
    difference: float
    changed: int

    def require(self, name: str, precision: str = "float32") -> None:
        """Raise `RunError` unless the logits and classes agree within `TOLERANCES`."""
        tolerance, share = TOLERANCES[precision]
        # NaN is not within the tolerance either.
        if self.changed > share * self.images or not self.difference <= tolerance:
            other = "the other --format" if precision == "float32" else "--precision float32"
            raise RunError(
                name,
                expected=f"the network's own class for {1 - share:.0%} of the images, and logits "
                f"within {tolerance:g} of the largest",
                got=f"a difference of {self.difference:.1e}, and another class for "
                f"{self.changed} of {self.images} images",
                remedy=f"nothing was written; use {other}",
            )


def compare(original: Tensor, exported: Tensor) -> Parity:
    """Compare logits ``[N, C]`` of two networks on the same images.

    Example:
        >>> logits = 4 * torch.eye(3)
        >>> compare(logits, logits + 1)
        Parity(images=3, difference=0.25, changed=0)
    """
    return Parity(
        images=len(original),
        difference=float((exported - original).abs().max() / original.abs().max()),
        changed=int((exported.argmax(dim=1) != original.argmax(dim=1)).sum()),
    )


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The percentage of images whose largest logit is the one of their label.

    Example:
        >>> accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0]))
        75.0
    """
    return 100 * float((logits.argmax(dim=1) == labels).double().mean())


def require_accuracy(name: str, before: float, after: float, tolerance: float) -> None:
    """Raise `RunError` if an accuracy falls by more than `tolerance` percentage points."""
    if before - after > tolerance + 1e-9:  # rounding of percentages
        raise RunError(
            name,
            expected=f"an accuracy of the int8 network of at least {before - tolerance:.2f} %, "
            f"{tolerance:g} below float32",
            got=f"{after:.2f} %",
            remedy="nothing was written; give --precision fp16 in place of --quantize, or a higher "
            "--tolerance",
        )


@torch.inference_mode()
def measure_latency(
    networks: Mapping[str, Callable[[Tensor], Tensor]], images: Tensor
) -> Latencies:
    """Time networks in turn, on batches of 1 and of 32 images.

    If there are fewer images, they are repeated to fill the batch. A batch size that would take too
    long to measure is left out.
    """
    latencies = {}
    for batch_size in LATENCY_BATCH_SIZES:
        batch = images[torch.arange(batch_size) % len(images)]
        cases = [Case(name, partial(network, batch)) for name, network in networks.items()]
        once = sum(tried.median for tried in interleave(cases, rounds=1))
        rounds = min(ROUNDS, int(SECONDS / once))
        if rounds >= MIN_ROUNDS:
            measured = interleave(cases, rounds)
            latencies[batch_size] = dict(zip(networks, measured, strict=True))
    return latencies


@dataclass(frozen=True)
class ReportColumn:
    """A column of the export table: one of the compared networks.

    Attributes:
        title: the column's heading, such as ``"PyTorch"`` or ``"ONNX Runtime"``.
        file_bytes: size of the network's file.
        accuracy: in percent, on the compared test images.
    """

    title: str
    file_bytes: int
    accuracy: float


@dataclass(frozen=True)
class ExportReport:
    """An exported file, and its comparison with the network in PyTorch.

    Attributes:
        path: the exported file.
        metadata: the metadata in the file.
        parameters: number of the network's parameters.
        stored_dtypes: dtypes of the weights in the run's .safetensors file.
        columns: the compared networks: the PyTorch network first, the exported file last.
        parity: agreement of the file's logits with those of the PyTorch network.
        latencies: seconds of one forward pass on the CPU, by batch size and column title.
    """

    path: Path
    metadata: ExportMetadata
    parameters: int
    stored_dtypes: tuple[str, ...]
    columns: tuple[ReportColumn, ...]
    parity: Parity
    latencies: Latencies


def export_table(report: ExportReport) -> Table:
    """A table of size, accuracy and latency of the PyTorch network and of its exported file."""
    compared = report.columns
    parameters = [number_cell(report.parameters, "{:,}")] * len(compared)
    sizes = [number_cell(column.file_bytes / 1e6, "{:.2f} MB") for column in compared]
    accuracies = [number_cell(column.accuracy, "{:.2f} %") for column in compared]
    tested = counted(report.parity.images, "test image")
    times = [
        (
            Cell(f"batch of {size}"),
            *(number_cell(1e3 * one.median, "{:.2f} ms") for one in measured.values()),
        )
        for size, measured in report.latencies.items()
    ]
    return Table(
        report.metadata.network,
        columns("", *(column.title for column in compared)),
        (
            (Cell("parameters"), *parameters),
            (Cell("file"), *sizes),
            (Cell(f"accuracy, {tested}"), *accuracies),
            *times,
        ),
    )


@dataclass(frozen=True)
class ShippedFile:
    """Measurements of an exported file, stored as JSON beside it and read by reports.

    Attributes:
        name: name of the exported file.
        runtime: program that ran the file, such as ``"ONNX Runtime"``.
        precision: ``"float32"``, ``"fp16"`` or ``"int8"``.
        bytes: size of the file.
        accuracy: in percent, on the compared test images.
        images: number of the compared test images.
        milliseconds: median latency of one image on the CPU; None if it took too long to measure.
        threads: number of torch's CPU threads during the measurement.
    """

    name: str
    runtime: str
    precision: str
    bytes: int
    accuracy: float
    images: int
    milliseconds: float | None
    threads: int


def write_shipped_file(report: ExportReport) -> None:
    """Write the measurements of an export as JSON beside the exported file."""
    column, path = report.columns[-1], report.path
    single = report.latencies.get(1)
    shipped = ShippedFile(
        name=path.name,
        runtime="ONNX Runtime" if path.suffix == ".onnx" else column.title,
        precision=report.metadata.precision,
        bytes=column.file_bytes,
        accuracy=column.accuracy,
        images=report.parity.images,
        milliseconds=1e3 * single[column.title].median if single else None,
        threads=torch.get_num_threads(),
    )
    write_json(path.with_name(f"{path.name}.json"), asdict(shipped))


def read_shipped_files(folder: str | Path) -> tuple[ShippedFile, ...]:
    """Read the measurements of the exported files in a folder, the fastest file first.

    Raises:
        RunError: a file of measurements is damaged.
    """
    paths = sorted([*Path(folder).glob("*.onnx.json"), *Path(folder).glob("*.pt2.json")])
    expected, remedy = "what an export measured", "remove it, or export again"
    files = [read_plain(path, ShippedFile, expected=expected, remedy=remedy) for path in paths]
    return tuple(sorted(files, key=lambda file: (file.milliseconds is None, file.milliseconds)))


def export_notes(report: ExportReport) -> list[str]:
    """Sentences to print below the export table: input, agreement of the logits, timing, dtypes."""
    known, parity = report.metadata, report.parity
    tolerance = ""
    if known.precision == "fp16":
        tolerance = f" (tolerance {TOLERANCES['fp16'][0]:g})"
    threads = counted(torch.get_num_threads(), "thread")
    dtype = "float16" if known.precision == "fp16" else "float32"
    scaled = "uint8" if known.input_dtype == "uint8" else "normalised float32"
    notes = [
        f"{len(known.class_names)} classes, {scaled} images "
        f"3x{known.image_size}x{known.image_size}, batches of any size.",
        f"The same class for {parity.images - parity.changed} of {parity.images} test images; "
        f"logits differ by at most {parity.difference:.2g} of the largest{tolerance}.",
        f"Times are medians on the CPU, {threads}, in turn.",
    ]
    if report.stored_dtypes != (dtype,):
        stored = " and ".join(report.stored_dtypes)
        notes.append(f"The run's weights are {stored}; those of the file are {known.precision}.")
    return notes
