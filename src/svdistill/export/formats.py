"""The formats that a student can be exported in, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from torch import Tensor
from torch.export import ExportedProgram

from svdistill.errors import ArgumentError
from svdistill.export import onnx_file, torch_file


class Format(NamedTuple):
    """How a network gets into a file of some format, and out of it.

    Attributes:
        suffix: of its files.
        runtime: what runs them.
        packages: that are needed, and installed by svdistill's extra `export`.
        serialise: the file's content, from a traced network and texts by their names.
        load: from content to a function from images to logits, both float32 on the CPU.
        read_metadata: the texts in a file.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...]
    serialise: Callable[[ExportedProgram, Mapping[str, str]], bytes]
    load: Callable[[bytes], Callable[[Tensor], Tensor]]
    read_metadata: Callable[[Path], dict[str, str]]


FORMATS: Final = {
    "onnx": Format(
        ".onnx",
        "ONNX Runtime",
        onnx_file.PACKAGES,
        onnx_file.to_onnx,
        onnx_file.load_onnx,
        onnx_file.read_onnx_metadata,
    ),
    "torch": Format(
        ".pt2",
        "torch.export",
        (),
        torch_file.to_pt2,
        torch_file.load_pt2,
        torch_file.read_pt2_metadata,
    ),
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
