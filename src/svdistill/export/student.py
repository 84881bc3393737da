"""`svdistill export`: write a trained student to a file, after a comparison with the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from svdistill.common import (
    ArgumentError,
    RunError,
    make_directory,
    require_choice,
    require_count,
    require_package,
    require_positive,
    write_atomically,
)
from svdistill.data import ImageData
from svdistill.export.checks import (
    ExportReport,
    ReportColumn,
    accuracy,
    compare,
    logits_of,
    measure_latency,
    require_accuracy,
    write_shipped_file,
)
from svdistill.export.exported import metadata_of
from svdistill.export.formats import (
    CALIBRATION_IMAGES,
    FORMATS,
    ExportedNetwork,
    Format,
    quantize_onnx,
    trace_network,
)
from svdistill.networks import import_network
from svdistill.runs import RunDirectory, WeightsCard, load_student, weights_file
from svdistill.training import (
    EvaluationImages,
    load_test_images,
    place_network,
    require_card,
)

PRECISIONS: Final = {"float32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class ExportOptions:
    """Options for exporting a network to a file.

    Attributes:
        include: ``"preprocessing"`` puts scaling and normalisation into the graph, so that the file
            takes uint8 images. None: the user of the file normalises the images.
        precision: ``"float32"``, or ``"fp16"`` for weights and operations in half precision, with
            float32 logits. An fp16 file is accepted if its logits differ from the network's by at
            most 1 % of the largest magnitude and the predicted class on at most 1 % of the images.
        opset: version of ONNX's operators; None for the default of torch's exporter.
        quantize: ``"int8"`` quantises weights and activations of an ONNX file, calibrated on 256
            training images. None: no quantisation. The logits of the float32 file, from which the
            int8 file is made, are compared with the network's; the int8 file by its test accuracy.
        tolerance: percentage points of test accuracy that the int8 file may lose against the
            float32 file, at least 0.
    """

    include: str | None = None
    precision: str = "float32"
    opset: int | None = None
    quantize: str | None = None
    tolerance: float = 1.0

    def require(self, file_format: Format) -> None:
        """Raise `ArgumentError` for a value that is invalid or not supported by the file format."""
        if self.include is not None:
            require_choice("include", self.include, ("preprocessing",))
        require_choice("precision", self.precision, PRECISIONS)
        if self.opset is not None:
            require_count("opset", self.opset)
        if self.quantize is not None:
            require_choice("quantize", self.quantize, ("int8",))
        if self.tolerance != 0:
            require_positive("tolerance", self.tolerance)
        for name in ("opset", "quantize"):
            if getattr(self, name) is not None and file_format.suffix != ".onnx":
                raise ArgumentError(
                    name,
                    expected="--format onnx with it",
                    got=f"{getattr(self, name)} with a {file_format.suffix} file",
                    remedy="leave it out, or choose --format onnx",
                )
        if self.quantize is not None and self.precision != "float32":
            raise ArgumentError(
                "quantize",
                expected="a float32 network",
                got=f"{self.quantize} with --precision {self.precision}",
                remedy="choose one of the two",
            )


def export_student(
    run: str | Path,
    format: str = "onnx",  # noqa: A002
    output: str | Path | None = None,
    *,
    data: str | ImageData | None = None,
    images: int | None = None,
    network: nn.Module | str | None = None,
    options: ExportOptions | None = None,
) -> ExportReport:
    """Write a trained network, without its teacher, to a file that other programs run.

    The exported network maps `images`, float32 ``[batch, 3, S, S]`` with any batch size, to
    `logits`, float32 ``[batch, classes]``. The file's metadata, see `ExportMetadata`, holds the
    classes and the preprocessing.

    A float32 file is kept only if it predicts the network's own class for every compared test
    image, with logits that differ by at most 1e-4 of the largest magnitude; `ExportOptions` gives
    the tolerances of fp16 and int8. The measurements are written to ``FILE.json`` beside it.

    Args:
        run: a finished run's directory, or a `.safetensors` file that a run wrote.
        format: `"onnx"`, or `"torch"` for a .pt2 file, as `torch.export.load` reads it.
        output: the file to write, ending in .onnx or .pt2; an existing file is replaced. None
            for `student.onnx` or `student.pt2` in the run directory.
        data: where the test images are, as in `load_images`, or the images themselves; None for
            those of the run.
        images: largest number of test images to compare on; None for 200, or for 2000 with int8.
        network: if the run trained a network of the user's own code: that network, built as for
            the run, or its `module:attr`. The run's weights are loaded into it.
        options: preprocessing in the graph, precision, opset, int8; None for the defaults.

    Returns:
        The path of the file, and its comparison with the network in PyTorch: logits, accuracy,
        size and latency.

    Raises:
        ArgumentError: a value is invalid, or a package of the extra `export` is missing.
        RunError: the run is unfinished, was written by another program, or cannot be exported; or
            the file's logits differ too much, or int8 loses more accuracy than `tolerance`. An
            existing file at `output` is then left unchanged.
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
    file_format, options = FORMATS[format], options or ExportOptions()
    options.require(file_format)
    count = (200 if options.quantize is None else 2000) if images is None else images
    require_count("images", count)
    for package in file_format.packages:
        require_package(package, "export")
    weights = weights_file(Path(run))
    path = _output_path(output, weights, file_format)
    card = require_card(run)
    _require_finished(Path(run))
    student = _load_student(run, card, network)
    tests = _inputs(load_test_images(run, data, count=count), count, card, options)
    metadata = replace(
        metadata_of(card, weights),
        input_dtype=str(tests.images.dtype).removeprefix("torch."),
        precision=options.precision,
    )
    program = trace_network(_graph(student, card, options), card.image_size)
    content = file_format.serialise(program, metadata.to_strings(), options.opset)
    files = {file_format.runtime: content}
    networks = {
        "PyTorch": lambda images: student(tests.normalise(images)),
        file_format.runtime: file_format.load(content),
    }
    logits = {title: logits_of(run_one, tests.images) for title, run_one in networks.items()}
    parity = compare(*logits.values())
    parity.require(str(path), options.precision)
    accuracies = {title: accuracy(found, tests.labels) for title, found in logits.items()}
    if options.quantize is not None:
        metadata = replace(metadata, precision=options.quantize)
        training = load_test_images(run, data, count=CALIBRATION_IMAGES, split="train")
        calibration = _inputs(training, CALIBRATION_IMAGES, card, options).images
        files["int8"] = quantize_onnx(content, metadata.to_strings(), calibration)
        networks["int8"] = file_format.load(files["int8"])
        quantised = logits_of(networks["int8"], tests.images)
        parity = compare(logits["PyTorch"], quantised)
        accuracies["int8"] = accuracy(quantised, tests.labels)
        before = accuracies[file_format.runtime]
        require_accuracy(str(path), before, accuracies["int8"], options.tolerance)
    *_, content = files.values()
    make_directory(path.parent)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    sizes = (weights.stat().st_size, *map(len, files.values()))
    report = ExportReport(
        path=path,
        metadata=metadata,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        stored_dtypes=_stored_dtypes(weights),
        columns=tuple(
            ReportColumn(title, size, accuracies[title])
            for title, size in zip(networks, sizes, strict=True)
        ),
        parity=parity,
        latencies=measure_latency(networks, tests.images),
    )
    write_shipped_file(report)
    return report


def _load_student(
    run: str | Path, card: WeightsCard, network: nn.Module | str | None
) -> ExportedNetwork:
    """Load the trained network on the CPU; it maps normalised float32 images to logits."""
    if isinstance(network, str):
        network = import_network(network, len(card.class_names), "network")
    student = ExportedNetwork(load_student(run, network)).eval()
    place_network(student, torch.device("cpu"))
    return student


def _graph(student: ExportedNetwork, card: WeightsCard, options: ExportOptions) -> ExportedNetwork:
    """The network as exported: in the requested precision, with normalisation if it is included."""
    normalise = (card.mean, card.std) if options.include else None
    network = student.network if options.precision == "float32" else copy.deepcopy(student.network)
    return ExportedNetwork(network, normalise, PRECISIONS[options.precision]).eval()


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
    """Raise `RunError` for an unfinished run, whose weights are not yet those of the last epoch."""
    if run.is_dir() and not RunDirectory(run).summary.exists():
        raise RunError(
            str(run),
            expected="a finished run",
            got="one without summary.json",
            remedy="finish it with --resume, or give one of its .safetensors files",
        )


class _Inputs(NamedTuple):
    """Test or calibration images in the form that the exported file takes as input.

    Attributes:
        images: uint8 if the file normalises them itself, else normalised float32.
        labels: the class of each image.
        normalise: what has to be applied to `images` before the PyTorch network takes them.
    """

    images: Tensor
    labels: Tensor
    normalise: Callable[[Tensor], Tensor]


def _inputs(
    tests: EvaluationImages, count: int, card: WeightsCard, options: ExportOptions
) -> _Inputs:
    """Take the first `count` images: as uint8 if the graph normalises them, else normalised."""
    images, labels = [], []
    for batch in tests.split.batches(count, device="cpu", order_seed=0):
        images.append(batch.images)
        labels.append(batch.labels)
        if sum(map(len, images)) >= count:  # a data loader ignores `count` and uses its batch size
            break
    taken, normalise = torch.cat(images)[:count], tests.augmentation.normalise
    side = card.image_size
    if taken.shape[2:] != (side, side):
        raise ArgumentError(
            "data",
            expected=f"images of {side}x{side}, which the network was trained on",
            got="x".join(map(str, taken.shape[2:])),
            remedy="resize them",
        )
    if options.include is None:
        return _Inputs(normalise(taken), torch.cat(labels)[:count], lambda images: images)
    if taken.dtype != torch.uint8:
        raise ArgumentError(
            "data",
            expected="uint8 images, to compare a file that normalises them itself",
            got=f"{str(taken.dtype).removeprefix('torch.')} images of a loader",
            remedy="give data by its name, or leave --include out",
        )
    return _Inputs(taken, torch.cat(labels)[:count], normalise)


def _stored_dtypes(weights: Path) -> tuple[str, ...]:
    """The sorted names of the floating-point dtypes of the tensors in a weights file."""
    floating = [t.dtype for t in load_file(weights).values() if t.is_floating_point()]
    return tuple(sorted({str(dtype).removeprefix("torch.") for dtype in floating}))
