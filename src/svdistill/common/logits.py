"""Outputs of networks and loaders, whose types differ between libraries: logits, descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdistill.common.errors import ArgumentError

if TYPE_CHECKING:  # the command line imports this room without torch
    from torch import Tensor


def as_logits(output: Any) -> Tensor:
    """Return the logits in a network's output.

    Args:
        output: a tensor; an object with `.logits` (Hugging Face, torchvision's Inception); a
            dictionary with the key `"logits"`; or a tuple or list whose first item is a tensor
            [B, C].

    Returns:
        The output itself if it is a tensor, else the tensor inside it.

    Raises:
        ArgumentError: the output has none of these forms.

    Example:
        >>> import torch
        >>> logits = torch.rand(2, 10)
        >>> all(as_logits(out) is logits for out in (logits, {"logits": logits}, (logits, None)))
        True
    """
    from torch import Tensor

    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if found is None and isinstance(output, (tuple, list)) and output:
        first = output[0]
        found = first if isinstance(first, Tensor) and first.ndim == 2 else None
    if isinstance(found, Tensor):
        return found
    raise ArgumentError(
        "network",
        expected="logits [B, C]: a tensor, .logits, the key 'logits', or the first of a tuple",
        got=described(output),
        remedy="wrap the network in a module whose forward returns its logits",
    )


def described(value: Any) -> str:
    """The type of a value, and what it holds, for an error message.

    Example:
        >>> described({"image": 1}), described([1, None])
        ("dict with the keys 'image'", 'list of int, NoneType')
    """
    from torch import Tensor

    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"{kind} with the keys {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        items = [*map(described, value[:5]), *(["..."] if len(value) > 5 else [])]
        return f"{kind} of {', '.join(items) or 'nothing'}"
    return kind
