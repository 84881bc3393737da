"""An accelerator made of Python: its tensors compute on the CPU and report what waits for them.

A process sets it up before its first backward pass, so each test runs a process: `waits_of`.
"""

import json
import os
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from recorded_work import READS, SENDS, indexes_by_mask

waits = []  # operation, and the lines of svdistill that called it


def set_up():
    """Register the device for the rest of the process, and return a mode to work in."""
    _setup_privateuseone_for_python_backend("virtual")
    torch.virtual.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    torch.__future__.set_swap_module_params_on_conversion(True)
    return VirtualAccelerator()


class VirtualTensor(torch.Tensor):
    """A tensor on `virtual:0` around one on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="virtual:0",
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class VirtualAccelerator(TorchDispatchMode):
    """Lets factories such as `torch.zeros` make tensors there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function, args, kwargs):
    composite = "CompositeImplicitAutograd"
    if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), composite):
        with VirtualAccelerator():
            result = function.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    tensors = []
    tree_map_only(torch.Tensor, tensors.append, (args, kwargs))
    ours = [tensor for tensor in tensors if isinstance(tensor, VirtualTensor)]
    device = kwargs.get("device")
    there = bool(ours) if device is None else torch.device(device).type == "virtual"
    if _waits(function, args, kwargs, tensors, ours, there):
        waits.append(f"{function} {_where()}")
    if there and device is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if function._schema.is_mutable:
        written = {id(tensor.inner): tensor for tensor in ours}
        return tree_map_only(torch.Tensor, lambda one: written.get(id(one), one), result)
    return tree_map_only(torch.Tensor, VirtualTensor, result) if there else result


def _waits(function, args, kwargs, tensors, ours, there):
    name = function.overloadpacket._qualified_op_name.partition("::")[2]
    if name == "_to_copy":
        return there != bool(ours) and not kwargs.get("non_blocking")
    if name == "copy_":
        non_blocking = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        return len(ours) == 1 and not non_blocking
    if not ours:
        return there and name in SENDS
    if any(tensor.ndim for tensor in tensors if not isinstance(tensor, VirtualTensor)):
        raise RuntimeError(f"{function} of tensors on two devices")
    return name in READS or indexes_by_mask(name, args)


def _inner(value):
    return value.inner if isinstance(value, VirtualTensor) else value


def _where():
    frames = [frame for frame in traceback.extract_stack() if "/svdistill/" in frame.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-3:]))


def run_on_virtual_accelerator(script):
    """Run a script after `set_up`; what it prints last, as JSON."""
    start = "import virtual_accelerator as virtual\nmode = virtual.set_up()\n"
    # Python's own exit may abort while a thread of torch's waits for the interpreter.
    end = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + textwrap.dedent(script) + end],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
