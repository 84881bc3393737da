"""Names of the seed's networks and the one function that builds them."""

from __future__ import annotations

from svdistill.errors import require_choice, require_count, require_positive
from svdistill.networks.base import SeedNetwork
from svdistill.networks.mobilenet import mobilenet_student, mobilenet_teacher
from svdistill.networks.resnext import resnext_student, resnext_teacher
from svdistill.networks.vgg import vgg_stride_student, vgg_student, vgg_teacher

_BUILDERS = {
    "vgg_teacher": vgg_teacher,
    "vgg_student": vgg_student,
    "vgg_stride_student": vgg_stride_student,
    "mobilenet_teacher": mobilenet_teacher,
    "mobilenet_student": mobilenet_student,
    "resnext_teacher": resnext_teacher,
    "resnext_student": resnext_student,
}


def network_names() -> tuple[str, ...]:
    """Name every network that `build_network` builds.

    Example:
        >>> "vgg_teacher" in network_names()
        True
    """
    return tuple(_BUILDERS)


def build_network(name: str, num_classes: int, width: float = 1.0) -> SeedNetwork:
    """Build one of the seed's networks, freshly initialised from torch's random generator.

    Args:
        name: one of `network_names`.
        num_classes: number of logits, at least 1.
        width: positive factor on the channels of every stage and hidden layer, each rounded to
            the nearest multiple of four and at least four; 1 is the seed's network.

    Returns:
        A network in training mode that maps images [B, 3, H, W] to logits [B, num_classes] and
        names its four taps in ``tap_paths``.

    Raises:
        ArgumentError: the name is unknown, or `num_classes` or `width` is out of range.

    Example:
        >>> import torch
        >>> network = build_network("mobilenet_student", num_classes=20, width=0.5)
        >>> network(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 20])

    Source:
        Lee, Kim, Song: "Self-supervised Knowledge Distillation Using Singular Value
        Decomposition", ECCV 2018. Where its drawing and its table disagree, the table's
        parameter count decides; `svdistill.networks.published` lists what remains.
    """
    require_choice("name", name, _BUILDERS)
    require_count("num_classes", num_classes)
    require_positive("width", width)
    return _BUILDERS[name](num_classes, width)
