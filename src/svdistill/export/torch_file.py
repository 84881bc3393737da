"""PyTorch's own format: from a traced network to a .pt2 file's content, and back."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor
from torch.export import ExportedProgram

from svdistill.export.trace import quiet


def to_pt2(program: ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """The content of a .pt2 file, which `torch.export.load` reads."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files=dict(metadata))
    return buffer.getvalue()


def load_pt2(content: bytes) -> Callable[[Tensor], Tensor]:
    """Open it with torch, on the CPU."""
    with quiet():
        return torch.export.load(io.BytesIO(content)).module()


def read_pt2_metadata(path: Path) -> dict[str, str]:
    """The texts that a file carries; it is a zip archive, and nothing in it is executed."""
    with zipfile.ZipFile(path) as archive:
        extra = [name for name in map(PurePosixPath, archive.namelist()) if "extra" in name.parts]
        return {name.name: archive.read(str(name)).decode() for name in extra}
