"""Images that somebody else has normalised and augmented."""

from __future__ import annotations

from torch import Tensor, nn


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
