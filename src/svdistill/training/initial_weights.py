"""The weights that a network starts from, read from a file that any tool wrote."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from svdistill.errors import RunError
from svdistill.files import require_no_device
from svdistill.networks.zoo_hf import fill, is_of_transformers
from svdistill.training.weights import read_tensors, weights_file

# Under these names training scripts save weights beside other things.
WITHIN: Final = ("state_dict", "model", "model_state_dict")


def fill_network(network: nn.Module, path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Fill a network from a weights file; a head of other classes is left as it is.

    A tensor is of the head if it has a row for each class. All else must agree in name and shape.

    Args:
        network: as it was built for `num_classes`.
        path: a `.safetensors` file, a run directory, or a file of tensors that `torch.save` wrote.
            Pickled code in it is never run.
        num_classes: of the network.

    Returns:
        Names of the tensors that were left.

    Raises:
        RunError: the file is missing, damaged, holds more than tensors, or is of another network.
    """
    file = weights_file(Path(path))
    tensors = _read(file)
    try:
        if is_of_transformers(network):
            return fill(network, tensors)
        return _fill(network, tensors, num_classes)
    except RuntimeError as error:
        raise RunError(
            str(file),
            expected=f"the weights of {type(network).__name__} as it was built",
            got=" ".join(str(error).split())[:300],
            remedy="check the network's name and its width",
        ) from error


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], num_classes: int) -> tuple[str, ...]:
    head = tuple(
        name
        for name, tensor in network.state_dict().items()
        if name in tensors and _rows_differ(tensor, tensors[name], num_classes)
    )
    found = {name: tensor for name, tensor in tensors.items() if name not in head}
    missing, unexpected = network.load_state_dict(found, strict=False)
    missing = [name for name in missing if name not in head]
    if missing or unexpected:
        raise RuntimeError(f"lacking: {_few(missing)}; too many: {_few(unexpected)}")
    return head


def _rows_differ(own: Tensor, found: Tensor, num_classes: int) -> bool:
    """Whether two tensors differ in the number of classes and in nothing else."""
    rows = own.shape[:1] == (num_classes,) and found.shape[:1] != (num_classes,)
    return rows and own.ndim == found.ndim and own.shape[1:] == found.shape[1:]


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_tensors(file)
    try:
        require_no_device(file)
        _require_whole(file)
        return _unwrap(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises whatever its readers stumble over
        raise RunError(
            str(file),
            expected="weights: a .safetensors file, or tensors alone that torch.save wrote",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy="check the path; save a network's state_dict() with safetensors.torch.save_file",
        ) from error


def _require_whole(file: Path) -> None:
    """Raise `ValueError` where an archive is damaged, or unpacks to more than it takes on disk.

    `torch.save` compresses nothing: a small file that fills the memory is none of its own. It
    writes checksums, which `torch.load` does not look at.
    """
    if not zipfile.is_zipfile(file):  # of torch before 1.6
        return
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > file.stat().st_size:
            raise ValueError(f"a compressed archive of {size:,} bytes, not torch.save's")
        if damaged := archive.testzip():
            raise ValueError(f"damaged in {damaged}")


def _unwrap(saved: Any) -> dict[str, Tensor]:
    """The tensors by their names, without the wrapping of training scripts."""
    for name in WITHIN:
        if isinstance(saved, Mapping) and isinstance(saved.get(name), Mapping):
            saved = saved[name]
    if not isinstance(saved, Mapping) or not all(isinstance(t, Tensor) for t in saved.values()):
        raise TypeError("something other than tensors by their names")
    parallel = all(name.startswith("module.") for name in saved)
    return {name.removeprefix("module.") if parallel else name: saved[name] for name in saved}


def _few(names: list[str]) -> str:
    return (", ".join(names[:3]) + (", ..." if names[3:] else "")) or "nothing"
