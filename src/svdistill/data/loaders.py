"""Read images from a user's DataLoader, with control over the global random states it uses."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from svdistill.common import ArgumentError, described, require_count
from svdistill.data.image_data import ImageData
from svdistill.data.splits import UNLABELLED, Batch, ImageSplit
from svdistill.parallel import ALONE, Share


class PrivateRandomStates:
    """Separate random states for code that draws from the global random number generators.

    They replace the global states of torch (CPU), NumPy and Python while `installed`; afterwards
    the global states are as before.

    Example:
        >>> states, again = PrivateRandomStates(seed=7), PrivateRandomStates(seed=7)
        >>> with states.installed():
        ...     first = torch.rand(3)
        >>> with states.installed():
        ...     second = torch.rand(3)
        >>> with again.installed():
        ...     both = torch.rand(6)
        >>> torch.equal(torch.cat([first, second]), both)
        True
    """

    def __init__(self, seed: int) -> None:
        self._states = (
            torch.Generator().manual_seed(seed).get_state(),
            np.random.RandomState(seed % 2**32).get_state(),
            random.Random(seed).getstate(),
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Use these as the global states within the block; the next block continues from them."""
        outside = global_states()
        set_global_states(self._states)
        try:
            yield
        finally:
            self._states = global_states()
            set_global_states(outside)


def seed_global_states(seed: int) -> None:
    """Seed the global random states of torch on every device, of NumPy and of Python.

    Args:
        seed: the seed, 0 or more and below 2^63.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def global_states() -> tuple:
    """Return the global random states of torch on the CPU, of NumPy and of Python."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def set_global_states(states: tuple) -> None:
    """Restore global random states that `global_states` returned."""
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


@final
class LoaderSplit(ImageSplit):
    """The batches of a DataLoader, in its own order.

    Args:
        loader: yields ``(images, labels)``.
        num_classes: number of classes; labels must be below it.
        least_label: the smallest label that is allowed; -1 allows images without a label.

    Raises:
        ArgumentError: if the loader has no batches, or no length.
    """

    def __init__(self, loader: DataLoader, num_classes: int, *, least_label: int = 0) -> None:
        self._loader = loader
        self._num_classes = num_classes
        self._least_label = least_label
        try:
            self._steps, self._images = len(loader), len(loader.dataset)  # type: ignore[arg-type]
        except TypeError as error:
            raise ArgumentError(
                "loader",
                expected="a DataLoader with a length, which the learning rate's schedule needs",
                got=f"{type(error).__name__}: {error}",
                remedy="give its data set a __len__",
            ) from error
        if self._steps == 0:
            raise _wrong("at least one batch", "none", "add images, or leave out drop_last")

    def __len__(self) -> int:
        """The length of the loader's data set, even if its sampler draws only a part of it."""
        return self._images

    @property
    def loading_remedy(self) -> str:
        """See `ImageSplit.loading_remedy`."""
        workers = self._loader.num_workers
        return (
            f"give your DataLoader more num_workers ({workers} now), or make its transforms faster"
        )

    def steps(self, batch_size: int) -> int:
        """The loader's number of batches; `batch_size` is ignored."""
        return self._steps

    def first(self, count: int, device: torch.device | str) -> Batch:
        """See `ImageSplit.first`."""
        batch = next(self.batches(count, device=device, order_seed=None))
        return Batch(batch.images[:count], batch.labels[:count], batch.indices[:count])

    def to(self, device: torch.device | str) -> LoaderSplit:
        """Return the split itself: it holds no images."""
        return self

    def part(self, start: int, stop: int) -> NoReturn:
        """Raise `ArgumentError`: the images of a DataLoader have no stored order."""
        raise ArgumentError(
            "data",
            expected="images in an order that stays, for a knowledge store",
            got="a DataLoader, which may shuffle and augment them",
            remedy="load them with load_images, which takes a datasets.Dataset too, or train with "
            "the teacher itself",
        )

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str,
        order_seed: int | None,
        skip: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Batch]:
        """Iterate once over the loader.

        Args:
            batch_size: ignored: the loader has a batch size of its own.
            device: device to which the batches are moved.
            order_seed: seed of the global random states while the loader makes batches. None uses
                a fixed seed; a loader that shuffles still shuffles.
            skip: number of batches to leave out at the beginning. The loader makes them anyway,
                so that its random states advance.
            share: the part of every batch that this process takes if several processes train
                together. Each reads the whole loader, with the same order and transforms.

        Returns:
            An iterator of `Batch`, whose `indices` number the images in the order they come.

        Raises:
            ArgumentError: if a batch is not a valid pair of images and labels.
        """
        seed = 0 if order_seed is None else order_seed  # a fixed seed if no order is asked for
        require_count("order_seed", seed, 0)
        return self._batches(torch.device(device), PrivateRandomStates(seed), skip, share)

    def _batches(
        self, device: torch.device, states: PrivateRandomStates, skip: int, share: Share
    ) -> Iterator[Batch]:
        with states.installed():
            source = iter(self._loader)
        count, end = 0, object()
        for number in itertools.count():
            with states.installed():
                item = next(source, end)
            if item is end:
                return
            images, labels = self._checked(item)
            if number >= skip:
                places = torch.arange(count, count + len(images))
                labelled = len(labels) if share == ALONE else int((labels != UNLABELLED).sum())
                yield Batch(
                    share.take(images).to(device, non_blocking=True).float(),
                    share.take(labels).to(device, non_blocking=True),
                    share.take(places),
                    share.part(len(images), labelled),
                )
            count += len(images)

    def _checked(self, item: Any) -> tuple[Tensor, Tensor]:
        """Return the images and labels of an item of the loader, or raise `ArgumentError`."""
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise _wrong("batches (images, labels)", described(item), "give it a collate_fn")
        images, labels = item
        if (
            not isinstance(images, Tensor)
            or not images.is_floating_point()
            or images.ndim != 4
            or images.shape[1] != 3
        ):
            remedy = "convert and normalise the images in its transforms"
            raise _wrong("floats of shape [B, 3, H, W] for images", described(images), remedy)
        if (
            not isinstance(labels, Tensor)
            or labels.dtype != torch.int64
            or labels.shape != images.shape[:1]
        ):
            expected = f"int64 of shape [{len(images)}] for labels"
            remedy = "give one class number for each image; mixed labels are not supported"
            raise _wrong(expected, described(labels), remedy)
        if len(labels):
            least, most = int(labels.min()), int(labels.max())
            if least < self._least_label or most >= self._num_classes:
                got = most if most >= self._num_classes else least
                expected = f"labels {self._least_label} to {self._num_classes - 1}"
                raise _wrong(expected, got, "number the classes as class_names does")
        return images, labels


def _wrong(expected: str, got: object, remedy: str) -> ArgumentError:
    return ArgumentError("loader", expected=expected, got=got, remedy=remedy)


def images_from_loaders(
    train: DataLoader,
    test: DataLoader,
    class_names: Sequence[str],
    *,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> ImageData:
    """Make a data set of two DataLoaders, whose images are used as they are.

    The loaders yield ``(images, labels)``: floats ``[B, 3, H, W]`` and int64 ``[B]``. The library
    neither normalises nor augments the images. The loaders also decide batch size and order, so a
    run's `batch_size`, `augmentation` and `views` have no effect. A label of -1 marks a training
    image without a label; every batch should hold some labelled images.

    Each pass seeds the global random states of torch, NumPy and Python while the loader works, and
    restores them afterwards, so that two runs with equal settings see the same shuffling and random
    transforms. So does a run that is resumed within an epoch, for which the loader makes the
    earlier batches again. If the loader has a generator of its own or persistent workers, seeding
    those is up to the user.

    A knowledge store (the teacher's outputs, saved by image index) cannot be made of such images,
    since they have no fixed indices.

    Args:
        train: the images to train on.
        test: the images to report accuracy on.
        class_names: name of each class, by its label.
        mean: mean per channel with which your transforms normalise; stored with the weights.
        std: standard deviation per channel with which your transforms normalise; stored likewise.

    Returns:
        The data set. Its fingerprint covers class names, the number of images and their shape.

    Raises:
        ArgumentError: if a loader has no length or no batches, or yields other batches than these.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> pairs = TensorDataset(torch.rand(10, 3, 8, 8), torch.arange(10) % 2)
        >>> train, test = (DataLoader(pairs, batch_size=4, shuffle=s) for s in (True, False))
        >>> data = images_from_loaders(train, test, ["ant", "bee"])
        >>> data.image_shape, len(data.train), data.train.steps(batch_size=1)
        ((3, 8, 8), 10, 3)
    """
    names = tuple(class_names)
    if len(names) < 2:
        raise ArgumentError(
            "class_names", expected="2 or more", got=len(names), remedy="name every class"
        )
    training = LoaderSplit(train, len(names), least_label=UNLABELLED)
    testing = LoaderSplit(test, len(names))
    shape = tuple(testing.first(1, "cpu").images.shape[1:])
    told = f"{names} {shape} {len(training)} {len(testing)}"
    return ImageData(
        train=training,
        dev=None,
        test=testing,
        class_names=names,
        mean=tuple(mean),
        std=tuple(std),
        image_shape=shape,
        fingerprint=hashlib.sha256(told.encode()).hexdigest()[:16],
        prepared=True,
    )
