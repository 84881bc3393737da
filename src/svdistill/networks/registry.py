"""Names of networks, and the one function that builds them."""

from __future__ import annotations

from typing import Final

from torch import nn

from svdistill.common import ArgumentError, nearest, require_choice, require_count, require_positive
from svdistill.networks import (
    timm_models as zoo_timm,
    torchvision_models as zoo_torchvision,
    transformers_models as zoo_hf,
)
from svdistill.networks.own_code import import_network
from svdistill.networks.paper import (
    PaperNetwork,
    mobilenet_student,
    mobilenet_teacher,
    resnext_student,
    resnext_teacher,
    vgg_stride_student,
    vgg_student,
    vgg_teacher,
)
from svdistill.networks.zoo import InputSpec, Zoo

_BUILDERS: Final = {
    "vgg_teacher": vgg_teacher,
    "vgg_student": vgg_student,
    "vgg_stride_student": vgg_stride_student,
    "mobilenet_teacher": mobilenet_teacher,
    "mobilenet_student": mobilenet_student,
    "resnext_teacher": resnext_teacher,
    "resnext_student": resnext_student,
}

_ZOOS: Final[dict[str, Zoo]] = {
    "timm": zoo_timm,
    "torchvision": zoo_torchvision,
    "hf": zoo_hf,
}

OTHER_NAMES: Final = "timm:NAME, torchvision:NAME, hf:NAME or module:attr"


def network_names() -> tuple[str, ...]:
    """Name the paper's networks, which `build_network` builds without another library.

    Example:
        >>> "vgg_teacher" in network_names()
        True
    """
    return tuple(_BUILDERS)


def is_zoo(name: str) -> bool:
    """Whether a name is of another library's network, such as `timm:resnet18`."""
    return _split(name)[0] is not None


def is_code(name: str) -> bool:
    """Whether a name is `module:attr`: to build it is to run code of that module.

    Example:
        >>> is_code("my_package.nets:resnet"), is_code("timm:resnet18"), is_code("vgg_student")
        (True, False, False)
    """
    return isinstance(name, str) and ":" in name and not is_zoo(name)


def require_network(argument: str, name: str) -> None:
    """Raise `ArgumentError` unless `build_network` knows a name of this kind; imports nothing."""
    if name not in network_names() and not is_zoo(name) and not is_code(name):
        names = ", ".join(map(repr, network_names()))
        close = nearest(str(name), network_names())
        raise ArgumentError(
            argument,
            expected=f"one of {names}, {OTHER_NAMES}",
            got=repr(name),
            remedy=close if close.startswith("did") else "choose one of these",
        )


def require_width(name: str, width: float) -> None:
    """Raise `ArgumentError` unless a network can be built with a factor on its channels."""
    require_positive("width", width)
    if width != 1 and name not in network_names():
        raise ArgumentError(
            "width",
            expected="1 with a network that is none of the paper's",
            got=width,
            remedy="leave width out, and choose a network of another size by its name",
        )


def build_paper_network(name: str, num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build one of the paper's networks; see `build_network`."""
    require_choice("name", name, _BUILDERS)
    require_count("num_classes", num_classes)
    require_positive("width", width)
    return _BUILDERS[name](num_classes, width)


def build_network(
    name: str,
    num_classes: int,
    width: float = 1.0,
    *,
    pretrained: bool = False,
    image_size: int | None = None,
) -> nn.Module:
    """Build a network by name, freshly initialised from torch's random generator.

    Args:
        name: one of `network_names`; `timm:NAME`, `torchvision:NAME`; `hf:NAME` or `hf:FOLDER`, an
            image classifier of transformers; or `module:attr` of your own code, see
            `import_network`. Code that a model brings along is never run.
        num_classes: number of logits, at least 1.
        width: positive factor on the channels of every stage and hidden layer, each rounded to
            the nearest multiple of four and at least four; for the paper's networks only.
        pretrained: whether to fill a network of timm, torchvision or transformers with the weights
            that are published, as a rule for ImageNet. If these are of another number of classes,
            the head is left as it was initialised.
        image_size: side of the images in pixels, for networks that are built for one, such as
            vision transformers; None for their own.

    Returns:
        A network in training mode that maps images [B, 3, H, W] to logits [B, num_classes], or to
        what `as_logits` finds them in. One of the paper names its four taps in ``tap_paths``.

    Raises:
        ArgumentError: the name is unknown, a package or the weights are missing, or another
            argument is out of range.

    Example:
        >>> import torch
        >>> network = build_network("mobilenet_student", num_classes=20, width=0.5)
        >>> network(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 20])

    Source:
        Lee, Kim, Song: "Self-supervised Knowledge Distillation Using Singular Value
        Decomposition", ECCV 2018. Where its drawing and its table disagree, the table's
        parameter count decides; `svdistill.networks.info` lists what remains.
    """
    require_network("name", name)
    require_count("num_classes", num_classes)
    require_width(name, width)
    zoo, own_name = _split(name)
    if pretrained and zoo is None:
        raise ArgumentError(
            "pretrained",
            expected="a network with published weights, of timm, torchvision or transformers",
            got=repr(name),
            remedy="train it, or give a weights file",
        )
    if name in _BUILDERS:
        return build_paper_network(name, num_classes, width)
    if zoo is None:
        return import_network(name, num_classes, "network")
    return zoo.build(own_name, num_classes, pretrained=pretrained, image_size=image_size)


def input_spec(name: str) -> InputSpec | None:
    """The images that a published network was trained on.

    Args:
        name: as for `build_network`.

    Returns:
        Their size and normalisation; None for the paper's networks and `module:attr`, which are
        trained on any.

    Raises:
        ArgumentError: the library does not know the name, or is not installed.

    Example:
        >>> input_spec("vgg_student") is None
        True
    """
    zoo, own_name = _split(name)
    return None if zoo is None else zoo.input_spec(own_name)


def pretrained_classes(name: str) -> int | None:
    """How many classes a network's published weights tell apart; None where none are published."""
    zoo, own_name = _split(name)
    return None if zoo is None else zoo.pretrained_classes(own_name)


def _split(name: str) -> tuple[Zoo | None, str]:
    """The library that a name is of, if any, and the name in it."""
    library, colon, own_name = name.partition(":") if isinstance(name, str) else ("", "", "")
    return _ZOOS.get(library) if colon else None, own_name
