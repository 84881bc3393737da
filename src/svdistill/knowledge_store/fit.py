"""Whether a store is one for a run: every reason why it is not, with a way out."""

from __future__ import annotations

from svdistill.data import ImageData
from svdistill.errors import RunError
from svdistill.knowledge_store.manifest import Manifest
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
    """Raise `RunError` unless a store holds the knowledge that a run needs.

    Args:
        manifest: the store's.
        data: the run's images.
        loss: the run's.
        augmentation: the run's, by name.
    """
    classes = data.class_names
    checks = (
        ("classes", _classes(manifest.class_names), _classes(classes), "classes_every"),
        ("image_size", manifest.image_size, data.image_shape[-1], "image_size"),
        ("train_size", manifest.images, len(data.train), "train_size and dev_fraction"),
        ("data", manifest.data_fingerprint, data.fingerprint, "data, train_size and dev_fraction"),
        ("loss", manifest.loss, loss_text(loss), "loss and its options"),
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


def _classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} classes ({shown})"
