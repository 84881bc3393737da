"""Check whether a knowledge store fits a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import torch
from torch import nn

from svdistill.common import ArgumentError, RunError, few_classes
from svdistill.data import ImageData
from svdistill.losses import (
    CosineAffinityLoss,
    Knowledge,
    PositionGramLoss,
    PositionSVDLoss,
    SumKnowledge,
    SumLoss,
    TransferLoss,
)
from svdistill.store.manifest import Manifest, rebuild

# The losses with an option `grid`.
ON_GRID: Final = (CosineAffinityLoss, PositionGramLoss, PositionSVDLoss)


def loss_text(loss: TransferLoss) -> str:
    """A line of text with a loss's class and options, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(loss).split()))


def require_fit(manifest: Manifest, data: ImageData, loss: TransferLoss, augmentation: str) -> None:
    """Raise `RunError` unless a store fits the images, loss and augmentation of a run."""
    images = "train_size, dev_fraction and unlabelled"
    classes = few_classes(manifest.class_names), few_classes(data.class_names)
    checks = (
        ("classes", *classes, "classes_every and classes"),
        ("image_size", manifest.image_size, data.image_shape[-1], "image_size"),
        ("train_size", manifest.images, len(data.train), images),
        ("data", manifest.data_fingerprint, data.fingerprint, f"data, {images}"),
        ("augmentation", manifest.augmentation, augmentation, "augmentation"),
    )
    for argument, stored, wanted, options in checks:
        if stored != wanted:
            raise RunError(
                argument,
                expected=f"{stored} as in the knowledge store",
                got=wanted,
                remedy=f"give the store's {options}, or make a store for this run",
            )
    _require_grid(manifest, loss, _selected(manifest, loss))


def _selected(manifest: Manifest, loss: TransferLoss) -> Knowledge:
    """What a loss reads of an empty batch; raises `RunError` if the store does not hold it all."""
    nothing = (torch.empty(0, *leaf.shape) for leaf in manifest.structure.leaves())
    try:
        selected: Knowledge = loss.select(rebuild(manifest.structure, nothing))
    except ArgumentError as error:
        raise RunError(
            "loss",
            expected="one that needs no more than the knowledge store holds, the knowledge of "
            f"{manifest.loss}",
            got=loss_text(loss),
            remedy="give such a loss, or make a store for this run",
        ) from error
    return selected


def _require_grid(manifest: Manifest, loss: TransferLoss, selected: Knowledge) -> None:
    """Raise `RunError` if the store's maps were pooled to a coarser grid than the loss's.

    `TransferLoss.select` raises an error for knowledge on a finer grid.
    """
    maps = [torch.empty(1, *shape, device="meta") for shape in manifest.tap_shapes]
    for part, stored in _by_part(loss, selected):
        if not isinstance(part, ON_GRID):
            continue
        # The last field of a position loss's knowledge holds tensors [B, ..., C] on a grid.
        *_, tensors = vars(stored).values()
        for held, wanted in zip(tensors, part.positions(maps), strict=False):
            if held.shape[1:-1] != wanted.shape[1:-1]:
                raise RunError(
                    "grid",
                    expected=f"{max(held.shape[1:-1])} as in the knowledge store",
                    got=part.grid,
                    remedy="give the store's grid, or make a store for this run",
                )


def _by_part(loss: TransferLoss, known: Knowledge) -> Iterator[tuple[nn.Module, Knowledge]]:
    """Each loss of a sum with the knowledge that it reads."""
    if not isinstance(loss, SumLoss) or not isinstance(known, SumKnowledge):
        yield loss, known
        return
    for part, its in zip(loss.parts(), known.parts, strict=True):
        yield from _by_part(part, its)
