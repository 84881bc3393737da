"""Where a store's knowledge lies: one file for some thousand images of one view.

A shard holds a row of bytes for each image, then a SHA-256 of the manifest's identity, of the
shard's own place and of the rows. So each shard is whole by itself or not at all, and one of
another store, view or place is not mistaken for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from svdistill.errors import RunError
from svdistill.knowledge_store.manifest import Manifest

DIGEST_BYTES: Final = hashlib.sha256().digest_size
MANIFEST_NAME: Final = "manifest.json"


class Shard(NamedTuple):
    """The images from `start` to before `stop` in one view."""

    view: int
    start: int
    stop: int

    def file(self, store: Path) -> Path:
        """Its file in a store."""
        return store / f"view-{self.view:04d}-from-{self.start:09d}.bin"

    def new_digest(self, manifest: Manifest) -> Any:
        """A hash that knows the store and the place, and waits for the rows."""
        place = f"{manifest.identity()} {self.view} {self.start} {self.stop} "
        return hashlib.sha256(place.encode())


def all_shards(manifest: Manifest) -> Iterator[Shard]:
    """The shards of a store, view by view."""
    for view in range(manifest.views):
        for start in range(0, manifest.images, manifest.shard_images):
            yield Shard(view, start, min(start + manifest.shard_images, manifest.images))


def require_size(shard: Shard, manifest: Manifest, store: Path) -> None:
    """Raise `RunError` unless the shard's file is there and as long as it has to be."""
    expected = (shard.stop - shard.start) * manifest.bytes_per_image + DIGEST_BYTES
    try:
        got = shard.file(store).stat().st_size
    except OSError as error:
        raise _unreadable(shard, store, error.strerror or type(error).__name__) from error
    if got != expected:
        raise _unreadable(shard, store, f"{got} bytes where there should be {expected}")


def map_rows(shard: Shard, manifest: Manifest, store: Path, *, verify: bool) -> Tensor:
    """The rows of a shard, mapped into memory: they are read from disk when they are used.

    Args:
        shard: which.
        manifest: the store's.
        store: its folder.
        verify: read everything once and compare with the digest.

    Returns:
        ``[images, bytes]``, uint8; not to be written to.

    Raises:
        RunError: the file is missing, cut short or damaged, or is another shard's.
    """
    require_size(shard, manifest, store)
    images = shard.stop - shard.start
    size = images * manifest.bytes_per_image
    # Unlike numpy's maps, torch's keep no file open: a store may have many shards.
    try:
        mapped = torch.from_file(
            str(shard.file(store)), shared=False, size=size + DIGEST_BYTES, dtype=torch.uint8
        )
    except (OSError, RuntimeError) as error:
        raise _unreadable(shard, store, str(error)) from error
    rows, stored = mapped[:size], mapped[size:]
    if verify:
        digest = shard.new_digest(manifest)
        digest.update(rows.numpy().data)
        if digest.digest() != stored.numpy().tobytes():
            raise _unreadable(shard, store, "other bytes than were written: its checksum is wrong")
    return rows.view(images, -1)


def _unreadable(shard: Shard, store: Path, got: str) -> RunError:
    return RunError(
        str(shard.file(store)),
        expected="a whole shard of this knowledge store",
        got=got,
        remedy="run the `svdistill cache` command that made the store again with --resume: it "
        "checks every shard and writes those anew that are not whole",
    )
