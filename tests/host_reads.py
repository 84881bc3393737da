"""A mode in which looking at a tensor's value from the host fails, as it would in a CUDA graph."""

import importlib
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

HOST_READS = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "item",
    "linalg_eigh",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_inv_ex",
    "masked_select",
    "nonzero",
    "unique",
}


class NoHostReads(TorchDispatchMode):
    """Raises where an operator would wait for the device, or check a status on the host."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in HOST_READS, f"{name} reads the host"
        return func(*args, **(kwargs or {}))


def forbid_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the solvers believe that a step is being captured."""
    for name in ("subspace", "solvers", "complement", "truncated_svd"):
        module = importlib.import_module(f"svdistill.linalg.{name}")
        for function, answer in (("may_branch", False), ("is_captured", True)):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, lambda device, answer=answer: answer)
