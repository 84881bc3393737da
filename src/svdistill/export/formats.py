"""From a network to the bytes of a file: tracing, ONNX and torch.export, quantisation."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from svdistill.common import (
    ArgumentError,
    RunError,
    SVDistillError,
    as_logits,
    in_short,
    require_package,
)

EXAMPLE_IMAGES: Final = 2  # torch.export treats a batch size of 1 as a constant

CALIBRATION_IMAGES: Final = 256

BATCH_SIZE: Final = 32


class ExportedNetwork(nn.Module):
    """Wrap a network so that it maps images to float32 logits and drops any other outputs.

    Args:
        network: any classifier of images.
        normalise: mean and standard deviation of each channel; `forward` then takes uint8 images,
            scales them to 0 to 1 and normalises them. None: it takes normalised float32 images.
        precision: the dtype in which the network computes; its weights are converted in place.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network.to(precision)
        self.input_dtype = torch.float32 if normalise is None else torch.uint8
        self.precision = precision
        if normalise is not None:
            mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalise)
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images [B, 3, H, W], giving logits [B, num_classes]."""
        if self.input_dtype == torch.uint8:
            images = (images.float() / 255 - self.mean) / self.std
        if self.precision == torch.float32:
            return as_logits(self.network(images))
        return as_logits(self.network(images.to(self.precision))).float()


def trace_network(network: ExportedNetwork, image_size: int) -> ExportedProgram:
    """Trace a network in eval mode, for images [batch, 3, image_size, image_size].

    Stack traces are removed from the graph, since they contain paths of this machine. Raises
    `RunError` if the network cannot be traced, or can be traced only for one fixed batch size.
    """
    shape = (EXAMPLE_IMAGES, 3, image_size, image_size)
    example = torch.zeros(shape, dtype=network.input_dtype)
    shapes = {"images": {0: Dim("batch")}}
    try:
        with _quiet():
            program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    except SVDistillError:
        raise
    except Exception as error:  # torch.export raises any exception of the network's code
        raise RunError(
            type(network.network).__name__,
            expected="a network that torch.export can trace, for batches of any size",
            got=in_short(error),
            remedy="let its forward not depend on the images' values or number",
        ) from error
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the logs and warnings of the exporters, which are meant for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def to_onnx(
    program: ExportedProgram, metadata: Mapping[str, str], opset: int | None = None
) -> bytes:
    """Convert to the content of an .onnx file, with input `images` and output `logits`.

    Both have a batch axis of any size. Raises `RunError` if ONNX cannot express the network.
    """
    try:
        with _quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: "batch"}},
                opset_version=opset,
                verbose=False,
            )
        assert converted is not None
        written = converted.model.opset_imports[""]
        if opset not in (None, written):  # the exporter may use another version without an error
            raise RunError(
                "opset",
                expected=f"one in which ONNX can express this network, such as {written}",
                got=opset,
                remedy="choose another, or leave it out",
            )
        for node in converted.model.graph.all_nodes():
            node.metadata_props.clear()  # they contain source code and paths of this machine
        converted.model.metadata_props.update(metadata)
        return converted.model_proto.SerializeToString()
    except SVDistillError:
        raise
    except Exception as error:  # the converter has many errors of its own
        raise RunError(
            "format",
            expected="a network that ONNX has operations for, of less than 2 GB",
            got=in_short(error),
            remedy="use --format torch",
        ) from error


def load_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    """Load the content of an .onnx file in ONNX Runtime on the CPU, with torch's thread count."""
    runtime = require_package("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    # Otherwise its threads spin for a while after each run, which slows down whatever runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Read the metadata strings of an .onnx file, by name."""
    model = require_package("onnx", "export").load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def to_pt2(
    program: ExportedProgram, metadata: Mapping[str, str], _opset: int | None = None
) -> bytes:
    """Convert to the content of a .pt2 file, which `torch.export.load` reads; opset is ignored."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files=dict(metadata))
    return buffer.getvalue()


def load_pt2(content: bytes) -> Callable[[Tensor], Tensor]:
    """Load the content of a .pt2 file with torch, on the CPU."""
    with _quiet():
        return torch.export.load(io.BytesIO(content)).module()


def read_pt2_metadata(path: Path) -> dict[str, str]:
    """Read the metadata strings of a .pt2 file, by name; the zip archive's code is not run."""
    with zipfile.ZipFile(path) as archive:
        extra = [name for name in map(PurePosixPath, archive.namelist()) if "extra" in name.parts]
        return {name.name: archive.read(str(name)).decode() for name in extra}


class Format(NamedTuple):
    """A file format: how networks are written to its files and read from them.

    Attributes:
        suffix: suffix of the files.
        runtime: the program that runs the files.
        packages: packages that the format needs; svdistill's extra `export` installs them.
        serialise: function from a traced network, metadata and an opset to a file's content.
        load: function from a file's content to a function from images to float32 logits on the CPU.
        read_metadata: function from a file's path to its metadata.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...]
    serialise: Callable[[ExportedProgram, Mapping[str, str], int | None], bytes]
    load: Callable[[bytes], Callable[[Tensor], Tensor]]
    read_metadata: Callable[[Path], dict[str, str]]


ONNX_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")

FORMATS: Final = {
    "onnx": Format(".onnx", "ONNX Runtime", ONNX_PACKAGES, to_onnx, load_onnx, read_onnx_metadata),
    "torch": Format(".pt2", "torch.export", (), to_pt2, load_pt2, read_pt2_metadata),
}


def format_of(path: Path) -> Format:
    """Find the format of a file by its suffix; raise `ArgumentError` for any other suffix.

    Example:
        >>> format_of(Path("student.pt2")).runtime
        'torch.export'
    """
    for file_format in FORMATS.values():
        if path.suffix == file_format.suffix:
            return file_format
    raise ArgumentError(
        str(path),
        expected="a file ending in .onnx or .pt2",
        got=path.suffix or "no ending",
        remedy="give a file that `svdistill export` wrote",
    )


def quantize_onnx(content: bytes, metadata: Mapping[str, str], images: Tensor) -> bytes:
    """Quantise the weights of a float32 .onnx file to int8 and its activations to uint8.

    The range of each activation is from its minimum to its maximum over `images`, which serve for
    calibration. Weights have one scale for each output channel and use 7 bits, since the sums of
    8-bit products saturate on x86 processors without VNNI instructions. Raises `RunError` if ONNX
    Runtime cannot quantise the network.
    """
    onnx = require_package("onnx", "export")
    quantization = require_package("onnxruntime.quantization", "export")
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            file = Path(folder) / "int8.onnx"
            quantization.quantize_static(
                onnx.load_from_string(content),
                file,
                _Calibration(images),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            model = onnx.load(str(file))
    except Exception as error:  # the quantiser has many errors of its own
        raise RunError(
            "quantize",
            expected="a network that ONNX Runtime can quantise",
            got=in_short(error),
            remedy="leave --quantize out",
        ) from error
    onnx.helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString())


class _Calibration:
    """Gives batches of images by the interface of ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(images.split(BATCH_SIZE))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}
