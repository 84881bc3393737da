"""Let a torchvision that was built for another torch be imported."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Final

import torch

# The operators whose absence breaks the import: torchvision describes their shapes on the way.
SCHEMAS: Final = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# An operator is there for as long as its library is.
_libraries: list[torch.library.Library] = []


def prepare_torchvision() -> None:
    """Make `import torchvision` work, and what imports it, where its wheel is of another build.

    PyPI's torchvision is built for the CUDA build of torch. With a CPU build its own operators do
    not load, and the import ends in `operator torchvision::nms does not exist`. Classifiers use
    none of these operators; that their names are known is enough. Call this before the import; it
    does nothing where torchvision is absent or imports well, nor a second time.

    Example:
        >>> prepare_torchvision()
    """
    if _libraries or find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _libraries.append(library)
