"""The file `manifest.json` of a knowledge store: what it holds, and its teacher and images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta

from svdistill.common import Finite, RunError, plain_fields, read_json, write_json
from svdistill.store.structure import Node, from_json

MANIFEST_NAME: Final = "manifest.json"
VERSION: Final = 1
Count = Annotated[int, Meta(ge=1)]

# Fields that are known when the store is complete.
OUTCOME: Final = ("teacher_accuracy", "complete")

# Fields for people. What they name is compared by its digest: it may have moved.
DESCRIPTIONS: Final = ("teacher", "data")

# The end of `Manifest.teacher` for a teacher that computes in bfloat16.
IN_BF16: Final = " in bf16"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds, and its teacher and images.

    Attributes:
        version: of the store's layout.
        svdistill: the version that wrote it.
        teacher: where the teacher came from, and ``in bf16`` if it computed so.
        teacher_sha256: of the teacher's weights, with their names and shapes.
        teacher_taps: module paths of the teacher's taps.
        tap_shapes: of their outputs, without the batch.
        teacher_accuracy: percentage of the test images; None until the store is complete, and for a
            teacher of other classes.
        data: where the images came from.
        data_fingerprint: `ImageData.fingerprint`.
        images: number of training images.
        class_names: name of each class.
        image_size: side of the images in pixels.
        mean, std: of the channels, in 0 to 1, with which the images were normalised.
        loss: the loss with its options, as `loss_text` prints it.
        augmentation: name of the augmentation.
        views: number of views of each image.
        views_seed: seed of the views.
        shard_images: images per shard; the last one of each view may have fewer.
        structure: the tensors of one image's knowledge.
        complete: whether all shards have been written.
    """

    version: int = VERSION
    svdistill: str
    teacher: str
    teacher_sha256: str
    teacher_taps: tuple[str, ...]
    tap_shapes: tuple[Annotated[tuple[Count, ...], Meta(min_length=1, max_length=3)], ...] = ()
    teacher_accuracy: float | None = None
    data: str
    data_fingerprint: str
    images: Count
    class_names: tuple[str, ...]
    image_size: Count
    mean: tuple[Finite, ...]
    std: tuple[Finite, ...]
    loss: str
    augmentation: str
    views: Count
    views_seed: Annotated[int, Meta(ge=0)]
    shard_images: Count
    structure: Node
    complete: bool = False

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one view of one image."""
        return sum(leaf.bytes for leaf in self.structure.leaves())

    def identity(self) -> str:
        """A digest of all fields but the outcome. Shards contain it."""
        described = {name: value for name, value in _plain(self).items() if name not in OUTCOME}
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def differences(self, other: Manifest) -> list[str]:
        """Names of the fields in which the knowledge of two stores differs.

        A teacher or images that have moved are the same if their digests are.
        """
        names = (field.name for field in fields(self))
        found = [name for name in names if getattr(self, name) != getattr(other, name)]
        found = [name for name in found if name not in (*OUTCOME, *DESCRIPTIONS)]
        precision = self.teacher.endswith(IN_BF16) != other.teacher.endswith(IN_BF16)
        return ["teacher", *found] if precision else found


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest with its digest, atomically."""
    content = _plain(manifest)
    write_json(path, {**content, "sha256": _digest(content)})


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest; raise `RunError` if it is missing, damaged or invalid."""
    content = read_json(path)
    try:
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, which this svdistill does not read")
        if content.pop("sha256") != _digest(content):
            raise ValueError("its checksum is wrong")
        return _checked(content)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RunError(
            str(path),
            expected=f"the manifest of a knowledge store, version {VERSION}",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="make the store anew with `svdistill cache`",
        ) from error


def _checked(content: dict[str, Any]) -> Manifest:
    if set(content) != {field.name for field in fields(Manifest)}:
        raise ValueError("fields are missing or unknown")
    structure = from_json(content.pop("structure"))
    manifest = Manifest(**plain_fields(Manifest, content), structure=structure)
    if len(manifest.tap_shapes) != len(manifest.teacher_taps):
        raise ValueError("tap_shapes has not one shape per tap")
    return manifest


def _plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON values."""
    return json.loads(json.dumps(asdict(manifest)))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
