"""Load a teacher, or initial weights of a network, from files and model libraries."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, RunError, require_no_device
from svdistill.config import OBJECT, PRETRAINED, TeacherConfig
from svdistill.data import DataChoices
from svdistill.losses import losses_without_logits
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

# Keys under which training scripts save weights.
WEIGHT_KEYS: Final = ("state_dict", "model", "model_state_dict")


def fill_network(network: nn.Module, path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Fill a network from a weights file, but for a head of other classes.

    The head's tensors have a row for each class. All others must agree in name and shape.

    Args:
        network: built for `num_classes`.
        path: a `.safetensors` file, a run directory, or a file of tensors that `torch.save` wrote.
            Pickled code in it is never run.
        num_classes: of the network.

    Returns:
        Names of the head's tensors that were not filled.

    Raises:
        RunError: the file is missing, damaged, holds more than tensors, or belongs to another
            network.
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
    """Whether two tensors differ in the number of classes only."""
    rows = own.shape[:1] == (num_classes,) and found.shape[:1] != (num_classes,)
    return rows and own.ndim == found.ndim and own.shape[1:] == found.shape[1:]


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_tensors(file)
    try:
        require_no_device(file)
        _require_whole(file)
        return _unwrap(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch may raise anything
        raise RunError(
            str(file),
            expected="weights: a .safetensors file, or tensors alone that torch.save wrote",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy="check the path; save a network's state_dict() with safetensors.torch.save_file",
        ) from error


def _require_whole(file: Path) -> None:
    """Raise `ValueError` if an archive is damaged or compressed.

    `torch.save` does not compress, so a compressed file could only be made to fill the memory. It
    writes checksums that `torch.load` does not verify.
    """
    if not zipfile.is_zipfile(file):  # written by torch before 1.6
        return
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > file.stat().st_size:
            raise ValueError(f"a compressed archive of {size:,} bytes, not torch.save's")
        if damaged := archive.testzip():
            raise ValueError(f"damaged in {damaged}")


def _unwrap(saved: Any) -> dict[str, Tensor]:
    """The tensors by name, without the wrappers of training scripts."""
    for name in WEIGHT_KEYS:
        if isinstance(saved, Mapping) and isinstance(saved.get(name), Mapping):
            saved = saved[name]
    if not isinstance(saved, Mapping) or not all(isinstance(t, Tensor) for t in saved.values()):
        raise TypeError("something other than tensors by their names")
    parallel = all(name.startswith("module.") for name in saved)
    return {name.removeprefix("module.") if parallel else name: saved[name] for name in saved}


def _few(names: list[str]) -> str:
    return (", ".join(names[:3]) + (", ..." if names[3:] else "")) or "nothing"


@dataclass(frozen=True)
class Teacher:
    """A trained network, and whether its logits are of the data's classes.

    Attributes:
        network: the network.
        other_classes: how its classes differ from the data's; empty if they are the same, or if
            nothing says what they are.
    """

    network: nn.Module
    other_classes: str = ""


def load_teacher(
    spec: str,
    class_names: Sequence[str],
    *,
    network: str | None = None,
    width: float = 1.0,
    weights: str = "",
    image_size: int | None = None,
) -> Teacher:
    """Load a teacher from a run, a file, a model library or code.

    Args:
        spec: a run directory, a `.safetensors` file, a network of timm, torchvision or transformers
            as `build_network` names it, or `module:attr` (see `import_network`).
        class_names: of the data. A teacher of other classes keeps its own; where their number is
            not known, its head is zero.
        network: name of the network, for a file that does not say it, or names the user's code.
        width: factor on its channels, for such a file.
        weights: for a model library's network: a file, or empty for the published weights.
        image_size: side of the images in pixels, for networks built for one size.

    Returns:
        The network, and how its classes differ if a file or a library says so.

    Raises:
        ArgumentError: the spec is none of these, or `network` is needed.
        RunError: the weights are missing, damaged, or belong to another network.
    """
    classes = len(class_names)
    if Path(spec).exists():
        return _from_file(weights_file(Path(spec)), class_names, network, width, image_size)
    if is_zoo(spec) and weights not in ("", PRETRAINED):
        return _filled(build_network(spec, classes, image_size=image_size), weights, classes)
    if is_zoo(spec):
        own = pretrained_classes(spec)
        assert own is not None  # a library's network has them
        teacher = build_network(spec, own, pretrained=True, image_size=image_size)
        return Teacher(teacher, "" if own == classes else f"{own} of them")
    if is_code(spec):
        return Teacher(import_network(spec, classes))
    raise ArgumentError(
        "teacher",
        expected="a run directory, a .safetensors file, timm:NAME, torchvision:NAME, hf:NAME or "
        "module:attr",
        got=f"{spec!r}, which does not exist",
        remedy="check the path",
    )


def _from_file(
    file: Path,
    class_names: Sequence[str],
    network: str | None,
    width: float,
    image_size: int | None,
) -> Teacher:
    card = read_card(file)
    own = class_names if card is None else card.class_names
    if card is not None and not (network and is_own_code(card)):
        teacher = build_as_on_card(card, file)
    elif network is not None:
        teacher = build_network(network, len(own), width, image_size=image_size)
    else:
        raise ArgumentError(
            "teacher_network",
            expected=f"the name of the network in {file}, which does not say it",
            got="nothing",
            remedy="give --teacher_network, one of `svdistill info` or timm:NAME, torchvision:NAME",
        )
    if card is None:
        return _filled(teacher, str(file), len(own))
    load_weights(teacher, file)
    return Teacher(teacher, _difference(own, class_names))


def _filled(network: nn.Module, weights: str, num_classes: int) -> Teacher:
    """A network with the weights of a file; a head of other classes is zero, the same each time."""
    head, tensors = fill_network(network, weights, num_classes), network.state_dict()
    for name in head:
        tensors[name].zero_()
    return Teacher(network, f"not {num_classes} of them" if head else "")


def _difference(own: Sequence[str], wanted: Sequence[str]) -> str:
    """How a teacher's classes differ from the data's; empty if they do not.

    Example:
        >>> _difference(["ant", "bee"], ["bee", "cow"])
        "other names, such as 'ant', which the data lacks"
        >>> _difference(["ant", "bee"], ["bee", "ant"])
        'another order of the names'
    """
    if len(own) != len(wanted):
        return f"{len(own)} of them"
    lacking = [name for name in own if name not in wanted]
    if lacking:
        return f"other names, such as {lacking[0]!r}, which the data lacks"
    return "" if list(own) == list(wanted) else "another order of the names"


# What a run or a store says of such a teacher.
NO_ACCURACY: Final = "warning: teacher of other classes ({}): no accuracy"


def require_known_classes(config: TeacherConfig, class_names: Sequence[str]) -> None:
    """Raise `ArgumentError` if a file or a library says that the teacher has other classes.

    For a loss that reads logits. Nothing is built, so that this is known before the images are
    decoded.
    """
    spec, published, difference = config.teacher, config.teacher_weights in ("", PRETRAINED), ""
    if spec in ("", OBJECT):
        return
    if Path(spec).exists():
        file = weights_file(Path(spec))
        card = read_card(file) if file.suffix == ".safetensors" else None
        difference = "" if card is None else _difference(card.class_names, class_names)
    elif is_zoo(spec) and published and (own := pretrained_classes(spec)) != len(class_names):
        difference = f"{own} of them"
    if difference:
        raise of_other_classes(config, len(class_names), difference)


def of_other_classes(config: TeacherConfig, num_classes: int, difference: str) -> ArgumentError:
    """The error of a teacher of other classes, for a loss that reads its logits."""
    remedy = "give a teacher of these classes"
    if is_zoo(config.teacher):
        words = ["--network", config.teacher, "--weights", config.teacher_weights or PRETRAINED]
        command = f"svdistill train {shlex.join(words)} {data_options(config)}"
        remedy = (
            f"train it on them first, `{command} --output runs/teacher`, then give --teacher "
            "runs/teacher"
        )
    return ArgumentError(
        "teacher",
        expected=f"one of the data's {num_classes} classes, since the loss {config.loss} reads its "
        "logits",
        got=f"{config.teacher}, which has {difference}",
        remedy=f"{remedy}; or give a --loss that reads none: {', '.join(losses_without_logits())}",
    )


def data_options(config: TeacherConfig) -> str:
    """The options that select a configuration's data, as typed."""
    words = ["--data", config.data]
    if config.classes_every != 1:
        words += ["--classes_every", str(config.classes_every)]
    for name in ("classes", *DataChoices._fields):
        if getattr(config, name):
            words += [f"--{name}", getattr(config, name)]
    return shlex.join(words)


# A poor teacher is nearer than this to guessing, between guessing (0) and no mistake (1).
POOR_SKILL: Final = 0.25


def warn_of_poor_teacher(
    accuracy: float, student_accuracy: float, num_classes: int, reporter: Reporter
) -> None:
    """Warn if a teacher is little better than guessing, or no better than its untrained student.

    Both accuracies are on the test images, in percent.
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
