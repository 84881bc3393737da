"""Interface to model libraries: what each can build, with which weights and input."""

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
        image_size: side in pixels of the square images.
        mean, std: of the channels, in 0 to 1, with which they are normalised.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


HUB_SECONDS: Final = 10


class Zoo(Protocol):
    """A library of networks: the modules `zoo_timm`, `zoo_torchvision` and `zoo_hf`.

    Each name is one of the library's own. A name that it does not have, and weights that cannot be
    had, are an `ArgumentError`.
    """

    def build(
        self, name: str, num_classes: int, *, pretrained: bool, image_size: int | None
    ) -> nn.Module:
        """Build a network in training mode.

        Args:
            name: in the library.
            num_classes: number of logits. Published weights of another number lose their head: the
                new one is drawn from torch's random generator.
            pretrained: whether to fill it with the published weights.
            image_size: for those that are built for one size of images; None for their own.
        """

    def input_spec(self, name: str) -> InputSpec:
        """The images that the published weights were trained on."""

    def pretrained_classes(self, name: str) -> int:
        """How many classes the published weights tell apart."""


@contextmanager
def fetching_weights(name: str) -> Iterator[None]:
    """Turn whatever a library raises while it fetches weights into one line with a remedy."""
    try:
        yield
    except SVDistillError:
        raise
    except Exception as error:  # each library has its own, and those of the network below it
        text = " ".join(str(error).split())[:200]
        raise ArgumentError(
            name,
            expected="published weights, from this machine's cache or the network",
            got=f"{type(error).__name__}: {text}",
            remedy="connect to the network once, or give a local file as --weights, "
            "a teacher's as --teacher_weights",
        ) from error


def in_hub_cache(repository: str, file: str) -> Path | None:
    """A file of the Hugging Face hub, where it has been fetched before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def require_hub(repository: str) -> None:
    """Raise, whatever the hub's library raises, unless it has the repository and can be reached.

    To ask this once takes seconds; to fetch from a hub that does not answer is tried for a minute.
    """
    from huggingface_hub import HfApi

    HfApi().model_info(repository, timeout=HUB_SECONDS)
