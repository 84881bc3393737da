"""What a store holds, and of what: the file `manifest.json`."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Final

from svdistill.errors import RunError
from svdistill.files import read_json, write_json
from svdistill.knowledge_store.structure import Node, from_json, to_json

VERSION: Final = 1
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
    tap_shapes: tuple[tuple[int, ...], ...] = ()
    teacher_accuracy: float | None = None
    data: str
    data_fingerprint: str
    images: int
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    loss: str
    augmentation: str
    views: int
    views_seed: int
    shard_images: int
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
    structure = from_json(content["structure"])
    lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
    shapes = tuple(map(tuple, content.get("tap_shapes", ())))
    manifest = Manifest(**{**content, **lists, "tap_shapes": shapes, "structure": structure})
    _require(manifest, int, "images", "image_size", "views", "shard_images", least=1)
    _require(manifest, int, "views_seed", least=0)
    _require(manifest, bool, "complete")
    _require(manifest, (float, int, NoneType), "teacher_accuracy")
    _require(
        manifest,
        str,
        *("svdistill", "teacher", "teacher_sha256", "data", "data_fingerprint"),
        *("loss", "augmentation"),
    )
    for name, kind in (
        ("teacher_taps", str),
        ("class_names", str),
        ("mean", float),
        ("std", float),
    ):
        items = getattr(manifest, name)
        if type(items) is not tuple or not all(type(item) is kind for item in items):
            raise ValueError(f"{name} is no list of {kind.__name__}")
    if not all(math.isfinite(number) for number in manifest.mean + manifest.std):
        raise ValueError("mean and std are not finite")
    if len(shapes) not in (0, len(manifest.teacher_taps)) or not all(
        1 <= len(shape) <= 3 and all(type(side) is int and side > 0 for side in shape)
        for shape in shapes
    ):
        raise ValueError("tap_shapes are not one of each tap")
    return manifest


def _require(manifest: Manifest, kind: Any, *names: str, least: int | None = None) -> None:
    for name in names:
        value = getattr(manifest, name)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds or (least is not None and value < least):
            raise ValueError(f"{name} is {str(value)[:60]!r}")


def _plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON holds it."""
    shallow = replace(manifest, structure=Node("", ()))
    content = {**asdict(shallow), "structure": to_json(manifest.structure)}
    said = {name: value for name, value in content.items() if value or name not in LATER}
    return json.loads(json.dumps(said))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
