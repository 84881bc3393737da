"""Images from a DataLoader of the user's own."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from svdistill.common import ArgumentError, require_count
from svdistill.data.image_data import ImageData
from svdistill.data.random_views import RandomStates
from svdistill.data.splits import UNLABELLED, Batch, ImageSplit, PartOfBatch
from svdistill.parallel import ALONE, Share

# What a loader draws from, if it does, where no order is asked for.
STORED_ORDER_SEED: Final = 0


@final
class LoaderSplit(ImageSplit):
    """What a DataLoader yields, in its own order and batches.

    Args:
        loader: yields ``(images, labels)``.
        num_classes: labels lie below it.
        least_label: and not below this.

    Raises:
        ArgumentError: the loader has no batches, or does not say how many.
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
        """The length of the loader's data set, whether or not its sampler takes all of it."""
        return self._images

    @property
    def loading_remedy(self) -> str:
        """See `ImageSplit.loading_remedy`."""
        workers = self._loader.num_workers
        return (
            f"give your DataLoader more num_workers ({workers} now), or make its transforms faster"
        )

    def steps(self, batch_size: int) -> int:
        """The loader's number of batches."""
        return self._steps

    def first(self, count: int, device: torch.device | str) -> Batch:
        """See `ImageSplit.first`."""
        batch = next(self.batches(count, device=device, order_seed=None))
        return Batch(batch.images[:count], batch.labels[:count], batch.indices[:count])

    def to(self, device: torch.device | str) -> LoaderSplit:
        """Return the split itself: it holds no images."""
        return self

    def part(self, start: int, stop: int) -> NoReturn:
        """Raise `ArgumentError`: the images have no stored order."""
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
        drop_last: bool = False,
        skip: int = 0,
        share: Share = ALONE,
    ) -> Iterator[Batch]:
        """Go through the loader once.

        Args:
            batch_size: not used, the loader has its own.
            device: where the batches are wanted.
            order_seed: of the global random states while the loader works. None takes one of its
                own: what a loader shuffles, it shuffles then too.
            drop_last: not used either.
            skip: the loader makes these batches again, so that what it draws is the same.
            share: what is taken of every batch. All processes that train together go through the
                whole loader, whose order and transforms are the same in all of them.

        Returns:
            An iterator of `Batch`, whose indices count the images as they come.

        Raises:
            ArgumentError: a batch is something else than images and labels.
        """
        seed = STORED_ORDER_SEED if order_seed is None else order_seed
        require_count("order_seed", seed, 0)
        return self._batches(torch.device(device), RandomStates(seed), skip, share)

    def _batches(
        self, device: torch.device, states: RandomStates, skip: int, share: Share
    ) -> Iterator[Batch]:
        with states.lent():
            source = iter(self._loader)
        count, end = 0, object()
        for number in itertools.count():
            with states.lent():
                item = next(source, end)
            if item is end:
                return
            images, labels = self._checked(item)
            if number >= skip:
                places = torch.arange(count, count + len(images))
                labelled = len(labels) if share == ALONE else int((labels != UNLABELLED).sum())
                own = Batch(
                    share.take(images).to(device, non_blocking=True).float(),
                    share.take(labels).to(device, non_blocking=True),
                    share.take(places),
                )
                yield PartOfBatch.of(own, share.part(len(images), labelled))
            count += len(images)

    def _checked(self, item: Any) -> tuple[Tensor, Tensor]:
        """The images and labels of what the loader yielded."""
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise _wrong("batches (images, labels)", _described(item), "give it a collate_fn")
        images, labels = item
        if (
            not isinstance(images, Tensor)
            or not images.is_floating_point()
            or images.ndim != 4
            or images.shape[1] != 3
        ):
            remedy = "convert and normalise the images in its transforms"
            raise _wrong("floats of shape [B, 3, H, W] for images", _described(images), remedy)
        if (
            not isinstance(labels, Tensor)
            or labels.dtype != torch.int64
            or labels.shape != images.shape[:1]
        ):
            expected = f"int64 of shape [{len(images)}] for labels"
            remedy = "give one class number for each image; mixed labels are not supported"
            raise _wrong(expected, _described(labels), remedy)
        if len(labels):
            least, most = int(labels.min()), int(labels.max())
            if least < self._least_label or most >= self._num_classes:
                got = most if most >= self._num_classes else least
                expected = f"labels {self._least_label} to {self._num_classes - 1}"
                raise _wrong(expected, got, "number the classes as class_names does")
        return images, labels


def _wrong(expected: str, got: object, remedy: str) -> ArgumentError:
    return ArgumentError("loader", expected=expected, got=got, remedy=remedy)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        return "a mapping with the keys " + ", ".join(map(repr, value))
    if isinstance(value, (tuple, list)):
        return f"{len(value)} things: {', '.join(type(item).__name__ for item in value)}"
    return type(value).__name__


def images_from_loaders(
    train: DataLoader,
    test: DataLoader,
    class_names: Sequence[str],
    *,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> ImageData:
    """Train on what two DataLoaders yield, as it comes: nothing is normalised or augmented.

    Batches are ``(images, labels)``: floats ``[B, 3, H, W]`` and int64 ``[B]``. Their size and
    order are the loader's own, and so a run's `batch_size`, `augmentation` and `views` have no
    effect. A label of -1 marks a training image without one; every batch should hold some with one.

    Each pass sets the global random states of torch, NumPy and Python to a seed of its own while
    the loader works, and sets them back: two equal runs see the same shuffling and the same random
    transforms, and so does a run that goes on; within an epoch the loader makes the batches before
    once more. What draws from a generator that the loader was given, or from workers that persist,
    is the user's to seed.

    A knowledge store cannot be made of such images: nothing says which of them is which.

    Args:
        train: the images to train on.
        test: the images to report accuracy on.
        class_names: name of each class; the label is its place.
        mean: with which the images were normalised, per channel, to be noted beside the weights.
        std: likewise.

    Returns:
        The data set. Its fingerprint tells class names, the number of images and their shape.

    Raises:
        ArgumentError: a loader without a length, or batches that are something else.

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
