"""What a knowledge store holds: `manifest.json`, and the bytes of one image's knowledge."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from msgspec import Meta
from torch import Tensor

from svdistill.common import (
    ArgumentError,
    Finite,
    RunError,
    described,
    from_plain,
    plain_fields,
    read_json,
    reading,
    write_json,
)
from svdistill.losses import Knowledge

MANIFEST_NAME: Final = "manifest.json"
VERSION: Final = 1
Count = Annotated[int, Meta(ge=1)]

# Fields that are known only when the store is complete.
OUTCOME: Final = ("teacher_accuracy", "complete")

# Fields that are not compared: they say where teacher and images came from, which may have moved.
# Teacher and images are compared by their digests.
DESCRIPTIONS: Final = ("teacher", "data")

# The end of `Manifest.teacher` for a teacher that computes in bfloat16.
IN_BF16: Final = " in bf16"

DTYPES: Final = {"float16": torch.float16, "float32": torch.float32}

# Tensors of at most this many numbers per image, such as singular values and the logits of few
# classes, are stored in float32: they take little space, and the loss is sensitive to them.
ALWAYS_FLOAT32: Final = 16

# Limits by which damaged or hostile manifests are rejected; no loss comes near them.
MOST_TENSORS: Final = 4096
MOST_NUMBERS: Final = 1 << 28
DEEPEST: Final = 16


@dataclass(frozen=True)
class Leaf:
    """The description of one tensor in a `Knowledge`.

    Attributes:
        name: the field that holds the tensor, such as ``right_vectors[2]``.
        shape: the tensor's shape for one image.
        dtype: the tensor's dtype on disk, ``float16`` or ``float32``.
    """

    name: str
    shape: tuple[Annotated[int, Meta(ge=1, le=MOST_NUMBERS)], ...]
    dtype: Annotated[str, Meta(pattern=r"\Afloat(16|32)\Z")]

    @property
    def bytes(self) -> int:
        """Bytes that this tensor takes on disk for one image."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Node:
    """The description of a `Knowledge`, with the tensors in its fields.

    Attributes:
        knowledge: the full name of its class.
        fields: the descriptions of its fields, in their order.
    """

    knowledge: str
    fields: tuple[Branch, ...]

    def leaves(self) -> tuple[Leaf, ...]:
        """The descriptions of all tensors, in the order of `Knowledge.tensors`."""
        return tuple(_leaves(self))


Branch = Leaf | Node | tuple["Branch", ...]


def describe(knowledge: Knowledge, dtype: str, prefix: str = "") -> Node:
    """Describe the structure of a `Knowledge`, to be stored with tensors of this dtype.

    Tensors of at most 16 numbers per image are always float32. A tensor that is empty, or does not
    hold floating-point numbers, raises `ArgumentError`.
    """
    names = [field.name for field in dataclasses.fields(knowledge)]
    branches = (_describe(getattr(knowledge, name), prefix + name, dtype) for name in names)
    return Node(_name(type(knowledge)), tuple(branches))


def rebuild(node: Node, tensors: Iterator[Tensor]) -> Knowledge:
    """Make the `Knowledge` that `node` describes from its tensors, in the order of the leaves."""
    return find_class(node)(*(_rebuild(branch, tensors) for branch in node.fields))


def find_class(node: Node) -> type[Knowledge]:
    """Find the class that a node names among the imported ones; raise `RunError` if missing."""
    for kind in _children(Knowledge):
        if _name(kind) == node.knowledge and len(dataclasses.fields(kind)) == len(node.fields):
            return kind
    raise RunError(
        "knowledge",
        expected=f"{node.knowledge} with {len(node.fields)} fields, which the store holds",
        got="no such class among those imported",
        remedy="import the module of the loss that the store was made with, or make the store anew",
    )


def from_json(value: Any) -> Node:
    """Read a structure from its `dataclasses.asdict` in JSON; raise `ValueError` if invalid."""
    node = _from_json(value, DEEPEST)
    if not isinstance(node, Node):
        raise ValueError("the structure is not a knowledge")
    leaves = node.leaves()
    numbers = sum(math.prod(leaf.shape) for leaf in leaves)
    if not 0 < len(leaves) <= MOST_TENSORS or numbers > MOST_NUMBERS:
        raise ValueError(f"{len(leaves)} tensors of {numbers} numbers per image")
    return node


def _describe(value: Any, name: str, dtype: str) -> Branch:
    if isinstance(value, tuple):
        return tuple(_describe(item, f"{name}[{at}]", dtype) for at, item in enumerate(value))
    if isinstance(value, Knowledge):
        return describe(value, dtype, f"{name}.")
    if not value.is_floating_point() or value.ndim == 0 or value.numel() == 0:
        raise ArgumentError(
            f"knowledge {name}",
            expected="floats, batch first",
            got=described(value),
            remedy="let the loss's extract return such tensors",
        )
    shape = tuple(value.shape[1:])
    return Leaf(name, shape, "float32" if math.prod(shape) <= ALWAYS_FLOAT32 else dtype)


def _rebuild(branch: Branch, tensors: Iterator[Tensor]) -> Any:
    if isinstance(branch, tuple):
        return tuple(_rebuild(item, tensors) for item in branch)
    return next(tensors) if isinstance(branch, Leaf) else rebuild(branch, tensors)


def _leaves(branch: Branch) -> Iterator[Leaf]:
    if isinstance(branch, Leaf):
        yield branch
        return
    for item in branch if isinstance(branch, tuple) else branch.fields:
        yield from _leaves(item)


def _from_json(value: Any, depth: int) -> Branch:
    if depth == 0:
        raise ValueError("the structure is nested too deeply")
    if isinstance(value, list):
        return tuple(_from_json(item, depth - 1) for item in value)
    if isinstance(value, dict) and set(value) == {"knowledge", "fields"}:
        fields = _from_json(value["fields"], depth - 1)
        if isinstance(value["knowledge"], str) and isinstance(fields, tuple):
            return Node(value["knowledge"], fields)
    if isinstance(value, dict) and "dtype" in value:
        return from_plain(Leaf, value)
    raise ValueError(f"not part of a structure: {str(value)[:60]}")


def _children(kind: type[Knowledge]) -> Iterator[type[Knowledge]]:
    for child in kind.__subclasses__():
        yield child
        yield from _children(child)


def _name(kind: type[Knowledge]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def encode(knowledge: Knowledge, structure: Node) -> Tensor:
    """Encode a batch as rows ``[B, bytes]``, uint8, on the CPU; a row holds an image's tensors."""
    leaves, tensors = structure.leaves(), knowledge.tensors()
    columns = [_encode(*pair) for pair in zip(leaves, tensors, strict=True)]
    return torch.cat(columns, dim=1).cpu()


def decode(rows: Tensor, structure: Node) -> Knowledge:
    """Decode the rows of a batch into a `Knowledge` in float32, on the device of the rows."""
    leaves = structure.leaves()
    columns = rows.split([leaf.bytes for leaf in leaves], dim=1)
    return rebuild(structure, (_decode(*pair) for pair in zip(leaves, columns, strict=True)))


def _decode(leaf: Leaf, column: Tensor) -> Tensor:
    # A view as another dtype needs aligned memory, which the column of a row may not have.
    aligned = column.clone(memory_format=torch.contiguous_format)
    return aligned.view(DTYPES[leaf.dtype]).float().view(-1, *leaf.shape)


def _encode(leaf: Leaf, tensor: Tensor) -> Tensor:
    kept = tensor.detach().to(DTYPES[leaf.dtype])
    if not bool(kept.isfinite().all()):
        infinite = not bool(tensor.isfinite().all())
        limit = torch.finfo(kept.dtype).max
        raise RunError(
            f"knowledge {leaf.name}",
            expected=f"finite numbers of at most {limit:g}, as {leaf.dtype} holds them",
            got="NaN or infinity" if infinite else f"{float(tensor.abs().max()):g}",
            remedy="check the teacher's weights and the images" if infinite else "use float32",
        )
    return kept.reshape(len(kept), -1).contiguous().view(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Describes a store: its teacher, its images, and the knowledge that it holds.

    Attributes:
        version: version of the store's layout.
        svdistill: version of svdistill that wrote the store.
        teacher: where the teacher came from; ends with `` in bf16`` if it computed in bfloat16.
        teacher_sha256: SHA-256 of the teacher's weights, with their names and shapes.
        teacher_taps: module paths of the teacher's taps.
        tap_shapes: shapes of the outputs at the taps, without the batch.
        teacher_accuracy: the teacher's accuracy on the test images in percent; None until the store
            is complete, and for a teacher with other classes than the data's.
        data: where the images came from.
        data_fingerprint: `ImageData.fingerprint`.
        images: number of training images.
        class_names: name of each class.
        image_size: side of the images in pixels.
        mean, std: mean and standard deviation of each channel, for pixels in 0 to 1, with which the
            images were normalised.
        loss: the loss with its options, as `loss_text` prints it.
        augmentation: name of the augmentation.
        views: number of views of each image.
        views_seed: seed of the views.
        shard_images: images per shard; the last one of each view may have fewer.
        structure: description of the tensors that are stored for one image.
        complete: whether all shards have been written.
    """

    version: int = VERSION
    svdistill: str
    teacher: str
    teacher_sha256: str
    teacher_taps: tuple[str, ...]
    tap_shapes: tuple[Annotated[tuple[Count, ...], Meta(min_length=1, max_length=3)], ...]
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
        """A digest of all fields but `OUTCOME`; each shard's checksum includes it."""
        return _digest({name: one for name, one in asdict(self).items() if name not in OUTCOME})

    def differences(self, other: Manifest) -> list[str]:
        """Names of the fields in which the knowledge of two stores differs.

        The places that teacher and images came from are not compared, only their digests.
        """
        names = (field.name for field in dataclasses.fields(self))
        found = [name for name in names if getattr(self, name) != getattr(other, name)]
        found = [name for name in found if name not in (*OUTCOME, *DESCRIPTIONS)]
        precision = self.teacher.endswith(IN_BF16) != other.teacher.endswith(IN_BF16)
        return ["teacher", *found] if precision else found


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest and its checksum to a file, atomically."""
    content = asdict(manifest)
    write_json(path, {**content, "sha256": _digest(content)})


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest; raise `RunError` if it is missing, damaged or invalid."""
    content = read_json(path)
    expected = f"the manifest of a knowledge store, version {VERSION}"
    remedy = "make the store anew with `svdistill cache`"
    wrong = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
    with reading(path, expected=expected, remedy=remedy, errors=wrong):
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, which this svdistill does not read")
        if content.pop("sha256") != _digest(content):
            raise ValueError("its checksum is wrong")
        if set(content) != {field.name for field in dataclasses.fields(Manifest)}:
            raise ValueError("fields are missing or unknown")
        structure = from_json(content.pop("structure"))
        manifest = Manifest(**plain_fields(Manifest, content), structure=structure)
        if len(manifest.tap_shapes) != len(manifest.teacher_taps):
            raise ValueError("tap_shapes has not one shape per tap")
        return manifest


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
