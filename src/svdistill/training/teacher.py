"""Load a teacher, or a network's initial weights, from files and model libraries."""

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

# Keys of a saved dictionary under which training scripts commonly store the weights.
WEIGHT_KEYS: Final = ("state_dict", "model", "model_state_dict")


def fill_network(network: nn.Module, path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Load a weights file into a network; skip the classifier head if its classes differ.

    The head's tensors have a row for each class. All other tensors must agree in name and shape.

    Args:
        network: the network to fill, built for `num_classes` classes.
        path: a `.safetensors` file, a run directory, or a file of tensors that `torch.save` wrote.
            Pickled code in the file is never run.
        num_classes: number of classes of the network.

    Returns:
        Names of the head's tensors that keep their values, since the file's differ in shape.

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
    """Whether a network's and a file's tensor have the same shape except for the class rows."""
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

    `torch.save` does not compress: a compressed archive may be an attack that fills the memory.
    `torch.load` does not verify the checksums that `torch.save` writes, so they are checked here.
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
    """A state dict, taken out of a training script's dictionary; `module.` prefixes are removed."""
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
    """A trained network, and whether it has a logit for each class of the data.

    Attributes:
        network: the network.
        other_classes: how the network's classes differ from the data's, in words; empty if they are
            the same or unknown.
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
        class_names: names of the data's classes. A teacher trained on other classes keeps its head;
            if a file does not say how many classes it has, the head is filled with zeros.
        network: name of the network, for a file that does not state it or names the user's code.
        width: factor on the network's channels, for such a file.
        weights: for a model library's network: a file, or empty for the published weights.
        image_size: side of the images in pixels, for networks built for one size.

    Returns:
        The network, and how its classes differ from the data's, as far as that is known.

    Raises:
        ArgumentError: `spec` is none of the above, or `network` is missing.
        RunError: the weights are missing, damaged, or belong to another network.
    """
    classes = len(class_names)
    if Path(spec).exists():
        return _from_file(weights_file(Path(spec)), class_names, network, width, image_size)
    if is_zoo(spec) and weights not in ("", PRETRAINED):
        return _filled(build_network(spec, classes, image_size=image_size), weights, classes)
    if is_zoo(spec):
        own = pretrained_classes(spec)
        assert own is not None  # known for every network of a library
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
    """Load a file's weights; fill a head of other classes with zeros, the same in every run."""
    head, tensors = fill_network(network, weights, num_classes), network.state_dict()
    for name in head:
        tensors[name].zero_()
    return Teacher(network, f"not {num_classes} of them" if head else "")


def _difference(own: Sequence[str], wanted: Sequence[str]) -> str:
    """Say how a teacher's classes differ from the data's; empty if they do not.

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


# Message of a run or a store whose teacher has other classes than the data.
NO_ACCURACY: Final = "warning: teacher of other classes ({}): no accuracy"


def require_known_classes(config: TeacherConfig, class_names: Sequence[str]) -> None:
    """Raise `ArgumentError` if a file or a library says that the teacher has other classes.

    Called if the loss reads the teacher's logits. It builds no network, so that the error comes
    before the images are decoded.
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
    """Make the error for a teacher of other classes whose logits the loss would read."""
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
    """The command-line options that select a configuration's data, as a user types them."""
    words = ["--data", config.data]
    if config.classes_every != 1:
        words += ["--classes_every", str(config.classes_every)]
    for name in ("classes", *DataChoices._fields):
        if getattr(config, name):
            words += [f"--{name}", getattr(config, name)]
    return shlex.join(words)


# A teacher is poor below this skill, on a scale from guessing (0) to no mistake (1).
POOR_SKILL: Final = 0.25


def warn_of_poor_teacher(
    accuracy: float, student_accuracy: float, num_classes: int, reporter: Reporter
) -> None:
    """Warn if a teacher is hardly better than guessing, or no better than the untrained student.

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
