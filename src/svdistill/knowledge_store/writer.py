"""Write a store shard by shard, so that a killed run loses at most one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from svdistill.errors import RunError
from svdistill.files import is_temporary, make_directory, sweep, write_atomically
from svdistill.knowledge_store.manifest import Manifest, read_manifest, write_manifest
from svdistill.knowledge_store.rows import encode
from svdistill.knowledge_store.shards import MANIFEST_NAME, Shard, all_shards, map_rows
from svdistill.locking import LOCK_NAME, locked, require_unlocked
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

    @contextmanager
    def held(self, *, resume: bool) -> Iterator[list[Shard]]:
        """`open` the folder, and let no other process do so while the block lasts.

        Raises:
            RunError: another process holds it, or see `open`.
        """
        require_unlocked(self.path)
        self._begun(resume)  # before anything is written
        make_directory(self.path)
        with locked(self.path):
            yield self.open(resume=resume)

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
        if self._begun(resume):
            sweep(self.path)
            return [shard for shard in all_shards(self.manifest) if not self._is_whole(shard)]
        make_directory(self.path)
        sweep(self.path)
        write_manifest(self.path / MANIFEST_NAME, self.manifest)
        return list(all_shards(self.manifest))

    def _begun(self, resume: bool) -> bool:
        """Whether the folder holds the store to go on with; raises where it holds another thing."""
        file = self.path / MANIFEST_NAME
        if file.exists():
            self._require_same(read_manifest(file), resume)
            return True
        if self.path.exists() and (
            not self.path.is_dir() or any(map(_is_others, self.path.iterdir()))
        ):
            raise RunError(
                str(self.path),
                expected="a new or empty directory",
                got="something else",
                remedy="choose another --output",
            )
        return False

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


def _is_others(path: Path) -> bool:
    """Whether a file is neither a lock nor what a killed process was writing."""
    return path.name != LOCK_NAME and not is_temporary(path)


def _short(manifest: Manifest, name: str) -> str:
    text = repr(getattr(manifest, name))
    return text if len(text) <= 200 else text[:200] + "..."
