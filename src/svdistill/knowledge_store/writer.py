"""Write a store shard by shard, so that a killed run loses at most one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from svdistill.errors import RunError
from svdistill.files import make_directory, write_atomically
from svdistill.knowledge_store.manifest import Manifest, read_manifest, write_manifest
from svdistill.knowledge_store.rows import encode
from svdistill.knowledge_store.shards import MANIFEST_NAME, Shard, all_shards, map_rows
from svdistill.losses import Knowledge

SHARD_IMAGES: Final = 4096


class StoreWriter:
    """Writes a store: open, write the missing shards in any order, finish.

    Args:
        path: the store's folder.
        manifest: of the store to write, not complete.
    """

    def __init__(self, path: str | Path, manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = manifest

    def open(self, *, resume: bool) -> list[Shard]:
        """Make the store's folder, or look what is in it already.

        Args:
            resume: go on with a store that is there. Every shard is compared with its checksum.

        Returns:
            The shards that are to be written.

        Raises:
            RunError: the folder holds a store and `resume` is not given, another store, or
                something else; or it cannot be made.
        """
        file = self.path / MANIFEST_NAME
        if file.exists():
            self._require_same(read_manifest(file), resume)
            self._sweep()
            return [shard for shard in all_shards(self.manifest) if not self._is_whole(shard)]
        if self.path.exists() and (not self.path.is_dir() or any(_not_temporary(self.path))):
            raise RunError(
                str(self.path),
                expected="a new or empty directory",
                got="something else",
                remedy="choose another --output",
            )
        make_directory(self.path)
        self._sweep()
        write_manifest(file, self.manifest)
        return list(all_shards(self.manifest))

    def write(self, shard: Shard, batches: Iterable[Knowledge]) -> None:
        """Write a shard, atomically.

        Args:
            shard: which.
            batches: the knowledge of its images in stored order, in batches of any size.

        Raises:
            RunError: a number does not fit its dtype, or the disk is full.
        """
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

    def finish(self, teacher_accuracy: float) -> Manifest:
        """Mark the store as complete."""
        finished = replace(self.manifest, teacher_accuracy=teacher_accuracy, complete=True)
        write_manifest(self.path / MANIFEST_NAME, finished)
        return finished

    def _require_same(self, stored: Manifest, resume: bool) -> None:
        if not resume:
            raise RunError(
                str(self.path),
                expected="a new or empty directory",
                got="a finished store" if stored.complete else "an unfinished store",
                remedy="choose another --output, or give --resume to check it and to go on",
            )
        for name in stored.differences(self.manifest):
            raise RunError(
                name,
                expected=f"{_short(stored, name)} as in {self.path}",
                got=_short(self.manifest, name),
                remedy="resume with the same command and options, or choose another --output",
            )

    def _is_whole(self, shard: Shard) -> bool:
        try:
            map_rows(shard, self.manifest, self.path, verify=True)
        except RunError:
            return False
        return True

    def _sweep(self) -> None:
        """Remove what a killed run was writing."""
        for file in set(self.path.iterdir()) - set(_not_temporary(self.path)):
            file.unlink(missing_ok=True)


def _not_temporary(path: Path) -> list[Path]:
    return [file for file in path.iterdir() if not (file.name[0] == "." and file.suffix == ".tmp")]


def _short(manifest: Manifest, name: str) -> str:
    text = repr(getattr(manifest, name))
    return text if len(text) <= 200 else text[:200] + "..."
