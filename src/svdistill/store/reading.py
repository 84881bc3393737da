"""Reading a knowledge store, and whether it fits a run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from svdistill.common import ArgumentError, RunError
from svdistill.data import ImageData
from svdistill.losses import Knowledge, TransferLoss
from svdistill.store.manifest import MANIFEST_NAME, Manifest, read_manifest
from svdistill.store.structure import decode, find_class, rebuild
from svdistill.store.writer import Shard, all_shards, map_rows, require_size


class KnowledgeStore:
    """A store that `svdistill cache` wrote.

    Opening it reads the manifest and the sizes of all shards. The checksum of a shard is verified
    when it is first read. No code in a store is executed.

    Args:
        path: the store's folder.

    Attributes:
        manifest: see `Manifest`.

    Raises:
        RunError: it is missing, incomplete or damaged, or of a loss whose module is not imported.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path / MANIFEST_NAME)
        if not self.manifest.complete:
            raise RunError(
                str(self.path),
                expected="a complete knowledge store",
                got="one that is not finished",
                remedy="repeat the `svdistill cache` command with --resume",
            )
        find_class(self.manifest.structure)
        for shard in all_shards(self.manifest):
            require_size(shard, self.manifest, self.path)
        self._view = -1
        self._maps: list[Tensor | None] = []
        self._verified: set[Shard] = set()

    def __len__(self) -> int:
        """The number of images."""
        return self.manifest.images

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one view of one image."""
        return self.manifest.bytes_per_image

    def read(self, indices: Tensor, view: int, device: torch.device | str = "cpu") -> Knowledge:
        """The knowledge of a batch.

        Args:
            indices: ``[B]``, int64, on the CPU: indices in the training split, as in
                `Batch.indices`.
            view: 0 to number of views - 1.
            device: the device of the knowledge.

        Returns:
            What the loss's `extract` returned for these views, float32.

        Raises:
            ArgumentError: the store does not hold the image or the view.
            RunError: a shard is damaged.
        """
        self._require_within("view", view, view, self.manifest.views)
        if len(indices):
            self._require_within("indices", int(indices.min()), int(indices.max()), len(self))
        if view != self._view:
            shards = -(-len(self) // self.manifest.shard_images)
            self._view, self._maps = view, [None] * shards
        part_of, order = (indices // self.manifest.shard_images).sort(stable=True)
        local = indices[order] % self.manifest.shard_images
        parts, counts = part_of.unique_consecutive(return_counts=True)
        pieces = zip(parts.tolist(), local.split(counts.tolist()), strict=True)
        # `index_select` copies whole rows; assigning to `rows[places]` would copy single bytes.
        gathered = [self._map(part).index_select(0, places) for part, places in pieces]
        target = torch.device(device)
        shape = (len(indices), self.bytes_per_image)
        rows = torch.empty(shape, dtype=torch.uint8, pin_memory=target.type == "cuda")
        if gathered:
            torch.index_select(torch.cat(gathered), 0, order.argsort(), out=rows)
        return decode(rows.to(target, non_blocking=True), self.manifest.structure)

    def _map(self, part: int) -> Tensor:
        """The rows of one of the current view's shards."""
        rows = self._maps[part]
        if rows is None:
            start = part * self.manifest.shard_images
            stop = min(start + self.manifest.shard_images, len(self))
            shard = Shard(self._view, start, stop)
            new = shard not in self._verified
            rows = self._maps[part] = map_rows(shard, self.manifest, self.path, verify=new)
            self._verified.add(shard)
        return rows

    def _require_within(self, argument: str, least: int, most: int, count: int) -> None:
        if least < 0 or most >= count:
            raise ArgumentError(
                argument,
                expected=f"0 to {count - 1}, which {self.path} holds",
                got=least if least < 0 else most,
                remedy="read from the store of this data and these views",
            )


def loss_text(loss: TransferLoss) -> str:
    """A loss with its options in one line, for manifests and messages."""
    return " ".join(repr(loss).split())


def require_fit(manifest: Manifest, data: ImageData, loss: TransferLoss, augmentation: str) -> None:
    """Raise `RunError` unless a store holds the knowledge that a run needs."""
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
    """Raise `RunError` unless the store holds all tensors that the loss reads."""
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
