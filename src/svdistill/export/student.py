"""`export`: a trained student as one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

from svdistill.common import (
    ArgumentError,
    RunError,
    make_directory,
    require_choice,
    require_count,
    require_package,
    write_atomically,
)
from svdistill.data import ImageData
from svdistill.export.checks import BatchLatency, Parity, compare, measure_latency
from svdistill.export.formats import FORMATS, Format
from svdistill.export.metadata import ExportMetadata, metadata_of
from svdistill.export.tracing import LogitsOnly, trace_network
from svdistill.networks import import_network
from svdistill.runs import RunDirectory, WeightsCard, load_student, weights_file
from svdistill.training import EvaluationImages, load_test_images, place_network, require_card


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how it compares with the network in PyTorch.

    Attributes:
        path: the file.
        runtime: what runs it, `ONNX Runtime` or `torch.export`.
        metadata: that the file carries.
        parameters: number of weights; the file holds them as float32.
        stored_dtypes: of the weights in the run's own file, `float32` or smaller.
        stored_bytes: size of the run's own file.
        file_bytes: size of the exported file.
        parity: how far its logits are from the network's.
        latencies: of both networks, by batch size.
    """

    path: Path
    runtime: str
    metadata: ExportMetadata
    parameters: int
    stored_dtypes: tuple[str, ...]
    stored_bytes: int
    file_bytes: int
    parity: Parity
    latencies: tuple[BatchLatency, ...]


def export_student(
    run: str | Path,
    format: str = "onnx",  # noqa: A002
    output: str | Path | None = None,
    *,
    data: str | ImageData | None = None,
    images: int = 200,
    network: nn.Module | str | None = None,
) -> ExportReport:
    """Write a trained network, without its teacher, to a file that other programs run.

    The file takes `images`, float32 ``[batch, 3, S, S]``, in batches of any size, and gives
    `logits`, float32 ``[batch, classes]``. It says its classes and how images are prepared; see
    `ExportMetadata`. It is written only if on real images it gives the network's own classes, and
    its logits within 1e-4 of the largest one.

    Args:
        run: a finished run's directory, or a `.safetensors` file that a run wrote.
        format: `"onnx"`, or `"torch"` for a .pt2 file, as `torch.export.load` reads it.
        output: the file to write, ending in .onnx or .pt2; a file of this name is replaced. None
            for `student.onnx` or `student.pt2` in the run directory.
        data: where test images are, as in `load_images`, or images; None for those of the run.
        images: test images to compare on, at most.
        network: for a run of the user's own code, that code's network as it was built for the run,
            or its `module:attr`; it is given the run's weights.

    Returns:
        Where the file is, and how it compares: logits, size, latency.

    Raises:
        ArgumentError: a bad value, or a package of the extra `export` is missing.
        RunError: the run is unfinished, was written by another program, or cannot be exported; or
            the exported network says something else. What was at `output` before is untouched.
        DataError: there are no test images.

    Example:
        >>> import tempfile
        >>> from svdistill.config import TrainConfig
        >>> from svdistill.training import train
        >>> run = tempfile.mkdtemp()
        >>> config = TrainConfig(output=run, network="mobilenet_student", width=0.1, epochs=1)
        >>> _ = train(config)
        >>> report = export_student(run, "torch", images=50)
        >>> report.path.name, report.metadata.image_size, report.parity.changed
        ('student.pt2', 16, 0)
    """
    require_choice("format", format, FORMATS)
    require_count("images", images)
    file_format = FORMATS[format]
    for package in file_format.packages:
        require_package(package, "export")
    weights = weights_file(Path(run))
    path = _output_path(output, weights, file_format)
    card = require_card(run)
    _require_finished(Path(run))
    if isinstance(network, str):
        network = import_network(network, len(card.class_names), "network")
    student = LogitsOnly(load_student(run, network)).float().eval()
    place_network(student, torch.device("cpu"))
    inputs = _inputs(load_test_images(run, data, count=images), images)
    _require_side(inputs, card)
    metadata = metadata_of(card, weights)
    program = trace_network(student, card.image_size)
    content = file_format.serialise(program, metadata.to_strings())
    exported = file_format.load(content)
    parity = compare(student, exported, inputs)
    parity.require(str(path))
    make_directory(path.parent)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return ExportReport(
        path=path,
        runtime=file_format.runtime,
        metadata=metadata,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        stored_dtypes=_stored_dtypes(weights),
        stored_bytes=weights.stat().st_size,
        file_bytes=len(content),
        parity=parity,
        latencies=measure_latency(student, exported, inputs),
    )


def _output_path(output: str | Path | None, weights: Path, file_format: Format) -> Path:
    path = weights.with_suffix(file_format.suffix) if output is None else Path(output)
    if path.suffix != file_format.suffix:
        raise ArgumentError(
            "output",
            expected=f"a file ending in {file_format.suffix}",
            got=repr(str(output)),
            remedy="rename it, or choose the other --format",
        )
    return path


def _require_finished(run: Path) -> None:
    """A run's last epoch is its student only when there is no other to come."""
    if run.is_dir() and not RunDirectory(run).summary.exists():
        raise RunError(
            str(run),
            expected="a finished run",
            got="one without summary.json",
            remedy="finish it with --resume, or give one of its .safetensors files",
        )


def _inputs(images: EvaluationImages, count: int) -> Tensor:
    """So many test images, as the network takes them."""
    taken: list[Tensor] = []
    for batch in images.split.batches(count, device="cpu", order_seed=0):
        taken.append(images.augmentation.normalise(batch.images))
        if sum(map(len, taken)) >= count:  # a loader's batches are of its own size
            break
    return torch.cat(taken)[:count]


def _require_side(inputs: Tensor, card: WeightsCard) -> None:
    side = (card.image_size, card.image_size)
    if inputs.shape[2:] != side:
        raise ArgumentError(
            "data",
            expected=f"images of {side[0]}x{side[1]}, which the network was trained on",
            got="x".join(map(str, inputs.shape[2:])),
            remedy="resize them",
        )


def _stored_dtypes(weights: Path) -> tuple[str, ...]:
    """The types of a file's numbers, without those that only count."""
    floating = [t.dtype for t in load_file(weights).values() if t.is_floating_point()]
    return tuple(sorted({str(dtype).removeprefix("torch.") for dtype in floating}))


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
