"""The interface to model libraries, and what its implementations share: access to the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from torch import nn

from svdistill.common import ArgumentError, SVDistillError


@dataclass(frozen=True)
class InputSpec:
    """Size and normalisation of the images that a network of another library expects.

    Attributes:
        image_size: side of the square images in pixels.
        mean, std: mean and standard deviation of each channel, for pixels scaled to 0 to 1.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


HUB_SECONDS: Final = 10


class Zoo(Protocol):
    """The interface of `timm_models`, `torchvision_models` and `transformers_models`.

    Model names are those that the model library itself uses. Every function raises `ArgumentError`
    if the library has no model of the name, or if its weights cannot be downloaded.
    """

    def build(
        self, name: str, num_classes: int, *, pretrained: bool, image_size: int | None
    ) -> nn.Module:
        """Build a network in training mode, with published weights if `pretrained`.

        If the published weights have another number of classes, the head keeps its random
        initialisation. `image_size` only affects networks that are built for one image size.
        """

    def input_spec(self, name: str) -> InputSpec:
        """Return the size and normalisation of the images that the weights were trained on."""

    def pretrained_classes(self, name: str) -> int:
        """Return the number of classes of the published weights."""


@contextmanager
def fetching_weights(name: str) -> Iterator[None]:
    """Turn any exception within the block, where a library loads weights, into `ArgumentError`."""
    try:
        yield
    except SVDistillError:
        raise
    except Exception as error:  # each library and its HTTP client has its own exceptions
        text = " ".join(str(error).split())[:200]
        raise ArgumentError(
            name,
            expected="published weights, from this machine's cache or the network",
            got=f"{type(error).__name__}: {text}",
            remedy="connect to the network once, or give a local file as --weights, "
            "a teacher's as --teacher_weights",
        ) from error


def in_hub_cache(repository: str, file: str) -> Path | None:
    """Return the path of a Hugging Face hub file in the local cache; None if not cached."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def require_hub(repository: str) -> None:
    """Raise an exception of `huggingface_hub` if the hub or the repository cannot be reached.

    This fails within seconds, whereas a download from an unreachable hub is retried for a minute.
    """
    from huggingface_hub import HfApi

    HfApi().model_info(repository, timeout=HUB_SECONDS)
