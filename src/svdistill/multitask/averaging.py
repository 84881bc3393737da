"""Gradients of several processes, averaged before they are compared."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def average_gradients(*several: list[Tensor | None]) -> None:
    """Replace gradients by their mean over the processes of a group, in one flat reduction.

    Does nothing outside of torch.distributed. The losses must reach the same parameters everywhere.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    present = [g for gradients in several for g in gradients if g is not None]
    flat = torch.cat([g.flatten().to(present[0].dtype) for g in present])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    means = iter(flat.split([g.numel() for g in present]))
    for gradients in several:
        for place, g in enumerate(gradients):
            if g is not None:
                gradients[place] = next(means).view(g.shape).to(g.dtype)
