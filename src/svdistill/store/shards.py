"""Shards of a knowledge store: layout, checks, writing and reading.

A shard is a file with a row of bytes for each image, followed by a SHA-256 of the manifest's
identity, the shard's view and image range, and the rows. So each shard can be checked on its own,
and a shard from another store or another place in this one is detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from svdistill.common import (
    ArgumentError,
    RunError,
    locked,
    make_directory,
    require_empty,
    require_unlocked,
    sweep,
    write_atomically,
)
from svdistill.losses import Knowledge
from svdistill.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    decode,
    encode,
    find_class,
    read_manifest,
    write_manifest,
)

DIGEST_BYTES: Final = hashlib.sha256().digest_size
SHARD_IMAGES: Final = 4096


class Shard(NamedTuple):
    """One shard: a view (augmentation) of the images from `start` up to, not including, `stop`."""

    view: int
    start: int
    stop: int

    def file(self, store: Path) -> Path:
        """The path of the shard's file in a store."""
        return store / f"view-{self.view:04d}-from-{self.start:09d}.bin"

    def new_digest(self, manifest: Manifest) -> Any:
        """A SHA-256 of the store's identity and the shard's place, to be updated with the rows."""
        place = f"{manifest.identity()} {self.view} {self.start} {self.stop} "
        return hashlib.sha256(place.encode())


def all_shards(manifest: Manifest) -> Iterator[Shard]:
    """The shards of a store, view by view."""
    for view in range(manifest.views):
        for start in range(0, manifest.images, manifest.shard_images):
            yield Shard(view, start, min(start + manifest.shard_images, manifest.images))


def require_size(shard: Shard, manifest: Manifest, store: Path) -> None:
    """Raise `RunError` unless the shard's file is there and has the right size."""
    expected = (shard.stop - shard.start) * manifest.bytes_per_image + DIGEST_BYTES
    try:
        got = shard.file(store).stat().st_size
    except OSError as error:
        raise _unreadable(shard, store, error.strerror or type(error).__name__) from error
    if got != expected:
        raise _unreadable(shard, store, f"{got} bytes where there should be {expected}")


def map_rows(shard: Shard, manifest: Manifest, store: Path, *, verify: bool) -> Tensor:
    """Memory-map the rows ``[images, bytes]``, uint8, of a shard; `verify` checks the checksum."""
    require_size(shard, manifest, store)
    images = shard.stop - shard.start
    size = images * manifest.bytes_per_image
    # Unlike numpy, torch keeps no file open for a mapping: a store may have very many shards.
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
        remedy="repeat the `svdistill cache` command with --resume: it checks every shard and "
        "writes those again that are not whole",
    )


def stored_manifest(store: Path, *, resume: bool) -> Manifest | None:
    """Read the manifest of a store to be resumed; None for a folder that is empty or missing.

    Raises:
        RunError: the folder holds a store and `resume` is False, or it holds other files.
    """
    file = store / MANIFEST_NAME
    if file.exists():
        stored = read_manifest(file)
        if resume:
            return stored
        raise RunError(
            str(store),
            expected="a new or empty directory",
            got="a finished store" if stored.complete else "an unfinished store",
            remedy="choose another --output, or give --resume to check and continue it",
        )
    require_empty(store)
    return None


class StoreWriter:
    """Writes a store: call `locked` or `open`, `write` for each missing shard, then `finish`.

    Shards may be written in any order. A resumed store keeps its manifest, in which the places that
    teacher and data came from may differ from those in `manifest`.

    Args:
        path: the store's folder.
        manifest: what the store is to hold.
    """

    def __init__(self, path: str | Path, manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = manifest

    @contextmanager
    def locked(self, *, resume: bool) -> Iterator[list[Shard]]:
        """`open` the store, and lock its folder against other processes within the block."""
        require_unlocked(self.path)
        self._stored(resume)  # raises its errors before the folder is created
        make_directory(self.path)
        with locked(self.path):
            yield self.open(resume=resume)

    def open(self, *, resume: bool) -> list[Shard]:
        """Create a new store, or check every shard of one to resume; return the shards to write.

        Raises:
            RunError: the folder holds a store and `resume` is False, holds another store or other
                files, or cannot be created.
        """
        stored = self._stored(resume)
        if stored is not None:
            self.manifest = stored
            sweep(self.path)
            return [shard for shard in all_shards(stored) if not self._is_whole(shard)]
        make_directory(self.path)
        sweep(self.path)
        write_manifest(self.path / MANIFEST_NAME, self.manifest)
        return list(all_shards(self.manifest))

    def _stored(self, resume: bool) -> Manifest | None:
        """The manifest of the store to resume, after comparing it; None for an empty folder."""
        stored = stored_manifest(self.path, resume=resume)
        if stored is None:
            return None
        for name in stored.differences(self.manifest):
            raise RunError(
                name,
                expected=f"{_short(stored, name)} as in {self.path}",
                got=_short(self.manifest, name),
                remedy="resume with the same command and options, or choose another --output",
            )
        return stored

    def write(self, shard: Shard, batches: Iterable[Knowledge]) -> None:
        """Write a shard atomically from the knowledge of its images, in order, in any batches."""
        size = (shard.stop - shard.start) * self.manifest.bytes_per_image

        def fill(temporary: Path) -> None:
            digest, written = shard.new_digest(self.manifest), 0
            with temporary.open("wb") as file:
                for knowledge in batches:
                    rows = encode(knowledge, self.manifest.structure).numpy().data
                    digest.update(rows)
                    written += file.write(rows)
                assert written == size, "as many rows as the shard has images"
                file.write(digest.digest())

        write_atomically(shard.file(self.path), fill)

    def finish(self, teacher_accuracy: float | None) -> Manifest:
        """Mark the store as complete, and return its final manifest."""
        finished = replace(self.manifest, teacher_accuracy=teacher_accuracy, complete=True)
        write_manifest(self.path / MANIFEST_NAME, finished)
        return finished

    def _is_whole(self, shard: Shard) -> bool:
        try:
            map_rows(shard, self.manifest, self.path, verify=True)
        except RunError:
            return False
        return True


def _short(manifest: Manifest, name: str) -> str:
    text = repr(getattr(manifest, name))
    return text if len(text) <= 200 else text[:200] + "..."


class KnowledgeStore:
    """Reads a knowledge store that `svdistill cache` wrote.

    Opening a store reads its manifest and the sizes of all shards. The checksum of a shard is
    verified when the shard is first read. A store contains no code that would be executed.

    Args:
        path: the store's folder.

    Attributes:
        manifest: description of the store, see `Manifest`.

    Raises:
        RunError: the store is missing, incomplete or damaged, or was made for a loss whose module
            has not been imported.
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
        """Read the teacher's knowledge of a batch of images.

        Args:
            indices: ``[B]``, int64, on the CPU: indices in the training split, as in
                `Batch.indices`.
            view: the view of the images, 0 to number of views - 1.
            device: the device to which the knowledge is moved.

        Returns:
            What the loss's `extract` returned for this view of the images, in float32.

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
        """The rows of a shard of the current view, the `part`-th, memory-mapped on first use."""
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
