"""The tensors of one image's knowledge, and its bytes in a row of a shard."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import torch
from msgspec import Meta
from torch import Tensor

from svdistill.common import ArgumentError, RunError, from_plain
from svdistill.losses import Knowledge

DTYPES: Final = {"float16": torch.float16, "float32": torch.float32}

# Singular values and the logits of few classes: small, and the loss is sensitive to them.
ALWAYS_FLOAT32: Final = 16

# Limits for damaged files; no loss comes near them.
MOST_TENSORS: Final = 4096
MOST_NUMBERS: Final = 1 << 28
DEEPEST: Final = 16


@dataclass(frozen=True)
class Leaf:
    """One tensor of a knowledge.

    Attributes:
        name: its field, such as ``right_vectors[2]``.
        shape: for one image.
        dtype: on disk, ``float16`` or ``float32``.
    """

    name: str
    shape: tuple[Annotated[int, Meta(ge=1, le=MOST_NUMBERS)], ...]
    dtype: Annotated[str, Meta(pattern=r"\Afloat(16|32)\Z")]

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Node:
    """A knowledge: the full name of its class, and its fields in their order."""

    knowledge: str
    fields: tuple[Branch, ...]

    def leaves(self) -> tuple[Leaf, ...]:
        """All tensors, in the order of `Knowledge.tensors`."""
        return tuple(_leaves(self))


Branch = Leaf | Node | tuple["Branch", ...]


def describe(knowledge: Knowledge, dtype: str) -> Node:
    """The structure of a knowledge, with the dtype of its tensors on disk.

    Tensors of at most 16 numbers per image are always float32. A tensor that is not of floats, or
    is empty, raises `ArgumentError`.
    """
    return _describe_knowledge(knowledge, "", dtype)


def rebuild(node: Node, tensors: Iterator[Tensor]) -> Knowledge:
    """The knowledge of this structure, from its tensors in the order of the leaves."""
    return find_class(node)(*(_rebuild(branch, tensors) for branch in node.fields))


def find_class(node: Node) -> type[Knowledge]:
    """The knowledge class of a node, among those imported; raise `RunError` if there is none."""
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
    """Read a structure from the JSON of its `dataclasses.asdict`; raise `ValueError` for others."""
    node = _from_json(value, DEEPEST)
    if not isinstance(node, Node):
        raise ValueError("the structure is not a knowledge")
    leaves = node.leaves()
    numbers = sum(math.prod(leaf.shape) for leaf in leaves)
    if not 0 < len(leaves) <= MOST_TENSORS or numbers > MOST_NUMBERS:
        raise ValueError(f"{len(leaves)} tensors of {numbers} numbers per image")
    return node


def _describe_knowledge(knowledge: Knowledge, prefix: str, dtype: str) -> Node:
    names = [field.name for field in dataclasses.fields(knowledge)]
    branches = (_describe(getattr(knowledge, name), prefix + name, dtype) for name in names)
    return Node(_name(type(knowledge)), tuple(branches))


def _describe(value: Any, name: str, dtype: str) -> Branch:
    if isinstance(value, tuple):
        return tuple(_describe(item, f"{name}[{at}]", dtype) for at, item in enumerate(value))
    if isinstance(value, Knowledge):
        return _describe_knowledge(value, f"{name}.", dtype)
    if not value.is_floating_point() or value.ndim == 0 or value.numel() == 0:
        raise ArgumentError(
            f"knowledge {name}",
            expected="floats, batch first",
            got=f"{value.dtype} of shape {list(value.shape)}",
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
    """The rows of a batch, ``[B, bytes]``, uint8, on the CPU: each image's tensors, concatenated.

    Raises:
        RunError: a number is not finite, or too large for the dtype on disk.
    """
    leaves, tensors = structure.leaves(), knowledge.tensors()
    columns = [_encode(*pair) for pair in zip(leaves, tensors, strict=True)]
    return torch.cat(columns, dim=1).cpu()


def decode(rows: Tensor, structure: Node) -> Knowledge:
    """The knowledge of a batch from its rows, float32, on their device."""
    leaves = structure.leaves()
    columns = rows.split([leaf.bytes for leaf in leaves], dim=1)
    return rebuild(structure, (_decode(*pair) for pair in zip(leaves, columns, strict=True)))


def _decode(leaf: Leaf, column: Tensor) -> Tensor:
    aligned = column.clone(memory_format=torch.contiguous_format)  # for the dtype
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
