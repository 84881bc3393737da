"""The interface to model libraries, and what their modules share: the hub and its errors."""

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
    """The images that a network of another library takes.

    Attributes:
        image_size: side of the square images in pixels.
        mean, std: of each channel, for pixels between 0 and 1.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


HUB_SECONDS: Final = 10


class Zoo(Protocol):
    """A model library: `timm_models`, `torchvision_models` and `transformers_models`.

    A name is the library's. Every function raises `ArgumentError` for a name that the library does
    not have, and for weights that cannot be fetched.
    """

    def build(
        self, name: str, num_classes: int, *, pretrained: bool, image_size: int | None
    ) -> nn.Module:
        """Build a network in training mode, with published weights if `pretrained`.

        The head keeps its random weights if the published ones are of other classes. `image_size`
        is for networks that are built for one size of images.
        """

    def input_spec(self, name: str) -> InputSpec:
        """The images that the published weights were trained on."""

    def pretrained_classes(self, name: str) -> int:
        """The number of classes of the published weights."""


@contextmanager
def fetching_weights(name: str) -> Iterator[None]:
    """Turn any exception of a library that fetches weights into an `ArgumentError`."""
    try:
        yield
    except SVDistillError:
        raise
    except Exception as error:  # each library and its HTTP client has its own
        text = " ".join(str(error).split())[:200]
        raise ArgumentError(
            name,
            expected="published weights, from this machine's cache or the network",
            got=f"{type(error).__name__}: {text}",
            remedy="connect to the network once, or give a local file as --weights, "
            "a teacher's as --teacher_weights",
        ) from error


def in_hub_cache(repository: str, file: str) -> Path | None:
    """Path of a file of the Hugging Face hub in the local cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def require_hub(repository: str) -> None:
    """Raise an exception of the hub's library unless it can be reached and has the repository.

    This fails within seconds, whereas a download from an unreachable hub is retried for a minute.
    """
    from huggingface_hub import HfApi

    HfApi().model_info(repository, timeout=HUB_SECONDS)
