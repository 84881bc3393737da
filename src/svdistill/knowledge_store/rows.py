"""Knowledge as rows of bytes, one row an image, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from svdistill.errors import RunError
from svdistill.knowledge_store.structure import DTYPES, Leaf, Node, rebuild
from svdistill.losses import Knowledge


def encode(knowledge: Knowledge, structure: Node) -> Tensor:
    """The rows of a batch.

    Args:
        knowledge: of B images.
        structure: what it is made of.

    Returns:
        ``[B, bytes]``, uint8, on the CPU: the tensors of an image one after the other.

    Raises:
        RunError: a number is not finite, or too large for the dtype that its tensor is kept in.
    """
    leaves, tensors = structure.leaves(), knowledge.tensors()
    columns = [_encode(*pair) for pair in zip(leaves, tensors, strict=True)]
    return torch.cat(columns, dim=1).cpu()


def decode(rows: Tensor, structure: Node) -> Knowledge:
    """The knowledge of a batch from its rows, float32, where the rows are."""
    leaves = structure.leaves()
    columns = rows.split([leaf.bytes for leaf in leaves], dim=1)
    # In memory of its own each column starts where its dtype may start.
    tensors = (
        column.clone(memory_format=torch.contiguous_format)
        .view(DTYPES[leaf.dtype])
        .float()
        .view(-1, *leaf.shape)
        for leaf, column in zip(leaves, columns, strict=True)
    )
    return rebuild(structure, tensors)


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
