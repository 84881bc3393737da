"""The file formats of an exported student: ONNX and torch.export."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from svdistill.common import ArgumentError, RunError, SVDistillError, require_package
from svdistill.export.tracing import in_short, quiet


def to_onnx(
    program: ExportedProgram, metadata: Mapping[str, str], opset: int | None = None
) -> bytes:
    """The content of an .onnx file: input `images`, output `logits`, both `[batch, ...]`.

    Raises:
        RunError: ONNX has no operation for a part of the network, or not in this opset.
    """
    try:
        with quiet():
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
        if opset not in (None, written):  # the exporter falls back to another without an error
            raise RunError(
                "opset",
                expected=f"one in which ONNX can express this network, such as {written}",
                got=opset,
                remedy="choose another, or leave it out",
            )
        for node in converted.model.graph.all_nodes():
            node.metadata_props.clear()  # source code and its paths
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
    """Open it with ONNX Runtime on the CPU, with as many threads as torch uses."""
    runtime = require_package("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would otherwise keep the cores busy after a run, and slow down what runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file."""
    model = require_package("onnx", "export").load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def to_pt2(
    program: ExportedProgram, metadata: Mapping[str, str], _opset: int | None = None
) -> bytes:
    """The content of a .pt2 file, which `torch.export.load` reads; it has no opset."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files=dict(metadata))
    return buffer.getvalue()


def load_pt2(content: bytes) -> Callable[[Tensor], Tensor]:
    """Open it with torch, on the CPU."""
    with quiet():
        return torch.export.load(io.BytesIO(content)).module()


def read_pt2_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file, read as a zip archive without running anything in it."""
    with zipfile.ZipFile(path) as archive:
        extra = [name for name in map(PurePosixPath, archive.namelist()) if "extra" in name.parts]
        return {name.name: archive.read(str(name)).decode() for name in extra}


class Format(NamedTuple):
    """How networks are written to files of a format, and read from them.

    Attributes:
        suffix: of its files.
        runtime: the program that runs them.
        packages: that writing needs; svdistill's extra `export` installs them.
        serialise: from a traced network, metadata and an opset to the content of a file.
        load: from the content to a function from images to float32 logits on the CPU.
        read_metadata: the metadata of a file.
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
    """The format of a file, by its suffix.

    Raises:
        ArgumentError: no format has this suffix.

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
