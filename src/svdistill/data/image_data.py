"""A data set's images and all that is known of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from svdistill.data.augmentation import Augmentation
from svdistill.data.splits import ImageSplit


class Prepared(nn.Module):
    """Stands where an `Augmentation` does, and leaves images as they came.

    Example:
        >>> import torch
        >>> images = torch.rand(2, 3, 8, 8)
        >>> prepared = Prepared()
        >>> prepared.normalise(images) is images
        True
        >>> prepared(images, seed=0, indices=torch.arange(2), view=5) is images
        True
    """

    def normalise(self, images: Tensor) -> Tensor:
        """Return the images ``[B, 3, H, W]``, float32."""
        return images

    def forward(self, images: Tensor, *, seed: int, indices: Tensor, view: int) -> Tensor:
        """Return the images ``[B, 3, H, W]``, float32, whatever view is asked for."""
        return images


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of labelled images, ready to train on.

    Attributes:
        train: the images to train on.
        dev: images held out of the training split to choose settings on, or None.
        test: the images to report accuracy on.
        class_names: name of each class; the label is its place.
        mean: mean of each channel of the labelled training images, in 0 to 1.
        std: standard deviation of each channel, in 0 to 1.
        image_shape: ``(3, H, W)``.
        fingerprint: the same for the same images, labels, splits and class names. Counts in all
            labels, and of each split 256 images; of images that loaders have, none.
        prepared: whether the images come normalised and augmented, as networks take them.
    """

    train: ImageSplit
    dev: ImageSplit | None
    test: ImageSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, ...]
    fingerprint: str
    prepared: bool = False

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def augmentation(self, name: str) -> Augmentation | Prepared:
        """What makes the views of these images that networks see.

        Args:
            name: of the `Augmentation`; without effect on prepared images.
        """
        if self.prepared:
            return Prepared()
        return Augmentation(name, self.image_shape[-1], self.mean, self.std)
