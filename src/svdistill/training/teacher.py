"""The teacher, from wherever the user keeps it."""

from __future__ import annotations

import shlex
from pathlib import Path

from torch import nn

from svdistill.data import ImageData
from svdistill.errors import ArgumentError, RunError
from svdistill.networks import build_network, is_code, is_zoo, pretrained_classes
from svdistill.networks.external import import_network
from svdistill.training.cache_config import CacheConfig
from svdistill.training.config import PRETRAINED, DistillConfig
from svdistill.training.initial_weights import fill_network
from svdistill.training.weights import (
    build_as_on_card,
    is_own_code,
    load_weights,
    read_card,
    weights_file,
)


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
