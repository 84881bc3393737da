"""Finds what must not happen on an accelerator: the host sees a tensor, or sends one."""

import sys
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# A tensor's value or its number of results comes back to the host; a factorisation's status too.
READS = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_eigvals",
    "linalg_eig",
    "_linalg_svd",
    "_linalg_solve_ex",
    "_linalg_det",
    "linalg_lu_factor",
    "linalg_cholesky",
    "linalg_inv",
    "linalg_lstsq",
}
# A tensor is made of Python numbers; on a GPU it would be copied there, and waited for.
SENDS = {"lift_fresh"}


class Recordable(TorchDispatchMode):
    """Raises at the first operation that a graph cannot hold."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket._qualified_op_name.partition("::")[2]
        if name in READS | SENDS or indexes_by_mask(name, args):
            raise AssertionError(f"{name} in a step that is to be recorded")
        return function(*args, **(kwargs or {}))


def indexes_by_mask(name, args):
    """Whether an operation's number of results depends on a mask."""
    masks = args[1] if name in ("index", "index_put", "index_put_") else ()
    return any(mask is not None and mask.dtype == torch.bool for mask in masks)


@contextmanager
def recorded():
    """Let everything of ours believe that it runs on an accelerator."""
    answers = {"may_branch": False, "is_accelerator": True}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if not name.startswith("svdistill.") or name == "svdistill.linalg.precision":
                continue
            for function, answer in answers.items():
                if hasattr(module, function):
                    patch.setattr(module, function, lambda device, answer=answer: answer)
        yield
