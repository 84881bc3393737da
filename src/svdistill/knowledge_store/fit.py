"""Whether a store is one for a run: every reason why it is not, with a way out."""

from __future__ import annotations

import torch

from svdistill.data import ImageData
from svdistill.errors import ArgumentError, RunError
from svdistill.knowledge_store.manifest import Manifest
from svdistill.knowledge_store.structure import rebuild
from svdistill.losses import TransferLoss


def loss_text(loss: TransferLoss) -> str:
    """A loss with its options in one line, as stores and runs name it.

    Example:
        >>> from svdistill.losses import FSPLoss, SoftTargetLoss, SumLoss
        >>> loss_text(SumLoss([FSPLoss(), SoftTargetLoss()], [1.0, 0.5]))[:38]
        'SumLoss( weights=(1.0, 0.5) (losses): '
    """
    return " ".join(repr(loss).split())


def require_fit(manifest: Manifest, data: ImageData, loss: TransferLoss, augmentation: str) -> None:
    """Raise `RunError` unless a store holds the knowledge that a run needs, or more than that.

    Args:
        manifest: the store's.
        data: the run's images.
        loss: the run's.
        augmentation: the run's, by name.
    """
    classes = data.class_names
    images = "train_size, dev_fraction and unlabelled"
    checks = (
        ("classes", _classes(manifest.class_names), _classes(classes), "classes_every and classes"),
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
    _require_enough(manifest, loss)


def _require_enough(manifest: Manifest, loss: TransferLoss) -> None:
    """Raise unless the loss finds what it reads in what the store holds."""
    leaves = manifest.structure.leaves()
    nothing = (torch.empty(0, *leaf.shape) for leaf in leaves)
    try:
        loss.select(rebuild(manifest.structure, nothing))
    except ArgumentError as error:
        raise RunError(
            "loss",
            expected="one that needs no more than the knowledge store holds, the knowledge of "
            f"{manifest.loss}",
            got=loss_text(loss),
            remedy="give such a loss, or make a store for this run",
        ) from error


def _classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} classes ({shown})"
