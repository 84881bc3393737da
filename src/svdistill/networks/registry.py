"""Build a network by name: one of the paper, of another library, or of the user's own code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from svdistill.common import (
    ArgumentError,
    import_attribute,
    nearest,
    require_count,
    require_positive,
)
from svdistill.networks import timm_models, torchvision_models, transformers_models
from svdistill.networks.paper import PAPER_NETWORKS, PaperNetwork
from svdistill.networks.zoo import InputSpec, Zoo

_ZOOS: Final[dict[str, Zoo]] = {
    "timm": timm_models,
    "torchvision": torchvision_models,
    "hf": transformers_models,
}

OTHER_NAMES: Final = "timm:NAME, torchvision:NAME, hf:NAME or module:attr"


def network_names() -> tuple[str, ...]:
    """Return the names of the paper's networks, which this package implements itself."""
    return tuple(PAPER_NETWORKS)


def is_zoo(name: str) -> bool:
    """Whether a name is that of another library's network, such as `timm:resnet18`."""
    return _split(name)[0] is not None


def is_code(name: str) -> bool:
    """Whether a name is `module:attr`: building such a network runs the code of that module."""
    return isinstance(name, str) and ":" in name and not is_zoo(name)


def require_network(argument: str, name: str) -> None:
    """Raise `ArgumentError` unless a name has one of the forms that `build_network` takes.

    Nothing is imported, so whether a library has a network of the name remains unchecked.
    """
    if name not in network_names() and not is_zoo(name) and not is_code(name):
        names, close = ", ".join(map(repr, PAPER_NETWORKS)), nearest(str(name), PAPER_NETWORKS)
        raise ArgumentError(
            argument,
            expected=f"one of {names}, {OTHER_NAMES}",
            got=repr(name),
            remedy=close if close.startswith("did") else "choose one of these",
        )


def require_width(name: str, width: float) -> None:
    """Raise `ArgumentError` unless the width is positive, and 1 except for the paper's networks."""
    require_positive("width", width)
    if width != 1 and name not in network_names():
        raise ArgumentError(
            "width",
            expected="1 with a network that is none of the paper's",
            got=width,
            remedy="leave width out, and choose a network of another size by its name",
        )


def build_paper_network(name: str, num_classes: int, width: float = 1.0) -> PaperNetwork:
    """Build one of the paper's networks without the argument checks of `build_network`."""
    return PAPER_NETWORKS[name](num_classes, width)


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
        name: one of `network_names`; `timm:NAME`; `torchvision:NAME`; `hf:NAME` or `hf:FOLDER`
            for an image classifier of transformers, on the hub or in a folder; or `module:attr`
            for your own code, see `import_network`. Code that comes with a downloaded model is
            never run.
        num_classes: number of logits, at least 1.
        width: positive factor on the channels of every stage and hidden layer; the products are
            rounded to the nearest multiple of four, at least four. The paper's networks only.
        pretrained: whether to load the published weights, usually those for ImageNet, into a
            network of timm, torchvision or transformers. If they have another number of classes,
            the head keeps its random initialisation.
        image_size: side of the images in pixels, for networks that are built for one image size,
            such as vision transformers; None uses their default.

    Returns:
        A network in training mode that maps images [B, 3, H, W] to logits [B, num_classes], or to
        an output from which `as_logits` extracts them. The paper's networks also have
        ``tap_paths``, the paths of the four modules whose outputs distillation compares.

    Raises:
        ArgumentError: if the name is unknown, a package or the weights are missing, or another
            argument is out of range.

    Example:
        >>> import torch
        >>> network = build_network("mobilenet_student", num_classes=20, width=0.5)
        >>> network(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 20])

    Source:
        Lee, Kim, Song: "Self-supervised Knowledge Distillation Using Singular Value
        Decomposition", ECCV 2018.
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
    if name in PAPER_NETWORKS:
        return build_paper_network(name, num_classes, width)
    if zoo is None:
        return import_network(name, num_classes, "network")
    return zoo.build(own_name, num_classes, pretrained=pretrained, image_size=image_size)


def input_spec(name: str) -> InputSpec | None:
    """Return the size and normalisation of the images that a network's weights were trained on.

    Args:
        name: as for `build_network`.

    Returns:
        The specification; None for the paper's networks and `module:attr`, which have no
        published weights.

    Raises:
        ArgumentError: if the library does not know the name, or is not installed.

    Example:
        >>> input_spec("vgg_student") is None
        True
    """
    zoo, own_name = _split(name)
    return None if zoo is None else zoo.input_spec(own_name)


def pretrained_classes(name: str) -> int | None:
    """Return the number of classes of a network's published weights; None if it has none."""
    zoo, own_name = _split(name)
    return None if zoo is None else zoo.pretrained_classes(own_name)


def _split(name: str) -> tuple[Zoo | None, str]:
    """Split a name into its model library, or None, and the name within the library."""
    library, colon, own_name = name.partition(":") if isinstance(name, str) else ("", "", "")
    return _ZOOS.get(library) if colon else None, own_name


def import_network(spec: str, num_classes: int, argument: str = "teacher") -> nn.Module:
    """Import a network from the user's own code, or build it with a function imported from there.

    Modules are searched for in the current directory first, as by `python -m`.

    The attribute that `spec`, ``module:attr``, names is an `nn.Module`, or a callable that returns
    one; the callable is given `num_classes` if it has such a parameter. Error messages call the
    spec by the name in `argument`.
    """
    found = import_attribute(spec, argument)
    if callable(found) and not isinstance(found, nn.Module):
        try:
            takes_classes = "num_classes" in inspect.signature(found).parameters
            found = found(num_classes=num_classes) if takes_classes else found()
        except Exception as error:  # the user's code may raise anything
            raise ArgumentError(
                argument,
                expected=f"{spec} to build a network from num_classes or from nothing",
                got=f"{type(error).__name__}: {error}",
                remedy="wrap it in a function of your own that needs no other argument",
            ) from error
    if not isinstance(found, nn.Module):
        raise ArgumentError(
            argument,
            expected="an nn.Module, or a function that returns one",
            got=type(found).__name__,
            remedy=f"let {spec} be one",
        )
    return found


_INITIALISERS: Final = (
    *(Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_),
    *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
)


class SkipInitialisation(TorchFunctionMode):
    """A mode in which networks are built without random weights; their memory is uninitialised.

    It helps on the ``meta`` device too, where drawing random numbers would make torch import its
    compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a torch function, but return the tensor unchanged if it would draw random values."""
        kwargs = kwargs or {}
        if func in _INITIALISERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Build networks within the block on torch's ``meta`` device: weights without values."""
    with torch.device("meta"), SkipInitialisation():
        yield
