"""The teacher, from wherever the user keeps it, and initial weights of a network."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, RunError, require_no_device
from svdistill.config import PRETRAINED, CacheConfig, DistillConfig
from svdistill.data import ImageData
from svdistill.networks import (
    build_network,
    import_network,
    is_code,
    is_transformers_network,
    is_zoo,
    load_transformers_weights,
    pretrained_classes,
)
from svdistill.runs import (
    build_as_on_card,
    is_own_code,
    load_weights,
    read_card,
    read_tensors,
    weights_file,
)
from svdistill.training.progress import Reporter

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
        if is_transformers_network(network):
            return load_transformers_weights(network, tensors)
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


def teacher_of(
    config: DistillConfig | CacheConfig, data: ImageData, given: nn.Module | None = None
) -> nn.Module:
    """The teacher that a configuration names, or that was given.

    Raises:
        SVDistillError: see `load_teacher`.
    """
    if given is not None:
        return given
    return load_teacher(
        config.teacher,
        data.num_classes,
        network=config.teacher_network,
        width=config.teacher_width,
        weights=config.teacher_weights,
        image_size=data.image_shape[-1],
        data=_data_options(config),
    )


def load_teacher(
    spec: str,
    num_classes: int,
    *,
    network: str | None = None,
    width: float = 1.0,
    weights: str = "",
    image_size: int | None = None,
    data: str = "--data DATA",
) -> nn.Module:
    """Load a teacher from wherever the user keeps it.

    Args:
        spec: a run directory, a `.safetensors` file, a network of timm, torchvision or transformers
            as `build_network` names it, or `module:attr` (see `import_network`).
        num_classes: the classes of the data, which the teacher's must be.
        network: name of the network, for a file that does not say it, or says code of one's own.
        width: factor on its channels, likewise.
        weights: of another library's network: a file, or empty for the published ones.
        image_size: side of the images in pixels, for networks that are built for one.
        data: the options that name the data, for the command that an error message advises.

    Returns:
        The network; its logits' number is not checked here, unless a file or a library tells it.

    Raises:
        ArgumentError: the spec is none of these, or a name is needed.
        RunError: the weights are missing, damaged, or of another network or class count.
    """
    if Path(spec).exists():
        return _from_file(weights_file(Path(spec)), num_classes, network, width, image_size)
    if is_zoo(spec):
        return _from_zoo(spec, num_classes, weights, image_size, data)
    if is_code(spec):
        return import_network(spec, num_classes)
    raise ArgumentError(
        "teacher",
        expected="a run directory, a .safetensors file, timm:NAME, torchvision:NAME, hf:NAME or "
        "module:attr",
        got=f"{spec!r}, which does not exist",
        remedy="check the path",
    )


def _from_file(
    file: Path, num_classes: int, network: str | None, width: float, image_size: int | None
) -> nn.Module:
    card = read_card(file)
    if card is not None and len(card.class_names) != num_classes:
        raise RunError(
            str(file),
            expected=f"a teacher of the data's {num_classes} classes",
            got=f"one of {len(card.class_names)}",
            remedy="train the teacher on the same data and classes",
        )
    if card is not None and not (network and is_own_code(card)):
        teacher = build_as_on_card(card, file)
    elif network is not None:
        teacher = build_network(network, num_classes, width, image_size=image_size)
    else:
        raise ArgumentError(
            "teacher_network",
            expected=f"the name of the network in {file}, which does not say it",
            got="nothing",
            remedy="give --teacher_network, one of `svdistill info` or timm:NAME, torchvision:NAME",
        )
    load_weights(teacher, file)
    return teacher


def _from_zoo(
    spec: str, num_classes: int, weights: str, image_size: int | None, data: str
) -> nn.Module:
    """A network of another library, whose head must be of the data's classes."""
    published = weights in ("", PRETRAINED)
    words = ["--network", spec, "--weights", weights or PRETRAINED]
    command = f"svdistill train {shlex.join(words)} {data} --output runs/teacher"
    if not published:
        teacher = build_network(spec, num_classes, image_size=image_size)
        if fill_network(teacher, weights, num_classes):
            raise _wrong_head(f"that of {weights}, which tells others apart", num_classes, command)
        return teacher
    classes = pretrained_classes(spec)
    if classes != num_classes:
        raise _wrong_head(f"{spec}, which tells {classes} apart", num_classes, command)
    return build_network(spec, num_classes, pretrained=True, image_size=image_size)


def _wrong_head(got: str, num_classes: int, command: str) -> ArgumentError:
    return ArgumentError(
        "teacher",
        expected=f"a head for the data's {num_classes} classes",
        got=got,
        remedy=f"train it on them first, `{command}`, then give --teacher runs/teacher",
    )


def _data_options(config: DistillConfig | CacheConfig) -> str:
    """The options that name a configuration's data, as one types them."""
    words = ["--data", config.data]
    if config.classes_every != 1:
        words += ["--classes_every", str(config.classes_every)]
    if config.classes is not None:
        words += ["--classes", config.classes]
    return shlex.join(words)


# Share of the way from guessing to no mistake.
POOR_SKILL: Final = 0.25


def warn_of_poor_teacher(
    accuracy: float, student_accuracy: float, num_classes: int, reporter: Reporter
) -> None:
    """Say so if a teacher hardly knows the data, or knows less than its student already does.

    Args:
        accuracy: the teacher's on the test images, in percent.
        student_accuracy: the untrained student's on them, likewise.
        num_classes: of the data.
        reporter: is told.
    """
    guessing = 100 / num_classes
    if accuracy < guessing + POOR_SKILL * (100 - guessing):
        reporter.message(
            f"warning: the teacher is right on {accuracy:.1f} % of these images, a guess among "
            f"{num_classes} classes on {guessing:.1f} %. Check that its classes are these, in this "
            "order, and that it was trained on images of this size and normalisation"
        )
    elif accuracy <= student_accuracy:
        reporter.message(
            f"warning: the student begins with {student_accuracy:.1f} %, no less than its teacher: "
            "it has nothing to learn there. Use a better teacher"
        )
