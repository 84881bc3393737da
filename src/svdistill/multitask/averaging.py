"""Gradients of several processes, averaged before they are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from svdistill.parallel import is_grouped, size, sum_over


def average_gradients(*several: list[Tensor | None]) -> None:
    """Replace gradients by their mean over the processes of a group, in one flat reduction.

    Does nothing outside of torch.distributed. The losses must reach the same parameters everywhere.
    """
    if not is_grouped():
        return
    present = [g for gradients in several for g in gradients if g is not None]
    flat = torch.cat([g.flatten().to(present[0].dtype) for g in present])
    means = iter(sum_over(flat).div_(size()).split([g.numel() for g in present]))
    for gradients in several:
        for place, g in enumerate(gradients):
            if g is not None:
                gradients[place] = next(means).view(g.shape).to(g.dtype)
