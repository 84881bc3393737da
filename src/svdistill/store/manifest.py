"""What a store holds, and of what: the file `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta

from svdistill.common import Finite, RunError, plain_fields, read_json, write_json
from svdistill.store.structure import Node, from_json

VERSION: Final = 1

Count = Annotated[int, Meta(ge=1)]

# What stores of earlier versions do not say; it is written where it says something.
LATER: Final = ("tap_shapes",)

# What may differ between a store that is being written and the same one when it is whole.
OUTCOME: Final = ("teacher_accuracy", "complete")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds, and of what.

    Attributes:
        version: of the store's layout.
        svdistill: the version that wrote it.
        teacher: where its teacher came from, to be read by people.
        teacher_sha256: of the teacher's weights, with their names and shapes.
        teacher_taps: module paths of the teacher's taps.
        tap_shapes: of their outputs, without the batch; empty in stores of earlier versions.
        teacher_accuracy: per cent of the test images; None until the store is complete.
        data: where its images came from, to be read by people.
        data_fingerprint: `ImageData.fingerprint`.
        images: how many training images.
        class_names: name of each class.
        image_size: side of the images in pixels.
        mean, std: of the channels, in 0 to 1, with which the images were normalised.
        loss: the loss with its options, as it prints itself, to be read by people.
        augmentation: name of the augmentation.
        views: how many views of each image.
        views_seed: what they were drawn from.
        shard_images: images in a shard, but for the last one of each view.
        structure: what an image's knowledge is made of.
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
        """A digest of all but the outcome: the same for the same knowledge. Shards carry it."""
        described = {name: value for name, value in _plain(self).items() if name not in OUTCOME}
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def differences(self, other: Manifest) -> list[str]:
        """Names of the fields in which two stores differ, without their outcome."""
        names = [field.name for field in fields(self) if field.name not in OUTCOME]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, with a digest of its own, atomically."""
    content = _plain(manifest)
    write_json(path, {**content, "sha256": _digest(content)})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; nothing it says is taken on trust.

    Raises:
        RunError: it is missing, damaged, of another version, or says what no store can be.
    """
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
    if set(content) | set(LATER) != {field.name for field in fields(Manifest)}:
        raise ValueError("fields are missing, or too many")
    structure = from_json(content.pop("structure"))
    manifest = Manifest(**plain_fields(Manifest, content), structure=structure)
    if len(manifest.tap_shapes) not in (0, len(manifest.teacher_taps)):
        raise ValueError("tap_shapes are not one of each tap")
    return manifest


def _plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON holds it."""
    content = asdict(manifest)
    said = {name: value for name, value in content.items() if value or name not in LATER}
    return json.loads(json.dumps(said))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
