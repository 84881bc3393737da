"""Detects whether a model has changed since a rewritten copy was made from it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

SIMPLE: Final = (
    *(type(None), bool, int, float, complex, str, bytes),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
)

FIXED: Final = (nn.Module, FunctionType, type, ModuleType)  # compared by identity

STANDARD: Final = frozenset(vars(nn.Module()))  # the attributes that every module has

MOST_VALUES: Final = 1000  # limit on the number of values in one attribute


class NotWatchableError(Exception):
    """Raised for an attribute whose changes cannot be detected."""


def structure(modules: Sequence[nn.Module]) -> tuple[int, ...]:
    """The identities of submodules, parameters and buffers, and the numbers of hooks."""
    marks: list[int] = []
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):  # its parts are new objects at every access
            marks.append(id(module))
            continue
        marks += (len(module._forward_hooks), len(module._forward_pre_hooks))
        for held in (module._modules, module._parameters, module._buffers):
            marks += map(id, held.values())
    return tuple(marks)


def can_watch(*modules: nn.Module) -> bool:
    """Whether `Weights` can detect every change of the weights of these modules."""
    return all(
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )


class Weights:
    """Keeps copies of tensors on the CPU, to detect any change of their values.

    All bits are compared, since the version counters of tensors count neither writes through
    `.data` nor writes in inference mode. On another device the comparison would synchronise in
    every step.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = tuple({id(tensor): tensor for tensor in tensors}.values())
        # Comparing a `bytearray` is fast: it uses memcmp.
        self._kept = [(t.dtype, t.shape, bytearray(_bits(t))) for t in self._tensors]

    def unchanged(self) -> bool:
        """Whether all tensors are still on the CPU and hold the same bits."""
        return all(
            tensor.device.type == "cpu"
            and tensor.dtype == dtype
            and tensor.shape == shape
            and bits == _bits(tensor)
            for tensor, (dtype, shape, bits) in zip(self._tensors, self._kept, strict=True)
        )


def _bits(tensor: Tensor) -> memoryview:
    """A tensor's bytes in the order in which they lie in memory."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda dim: -strides[dim])
    flat = tensor.detach().permute(order).reshape(-1)
    read: memoryview = flat.view(torch.uint8).numpy().data
    return read


class Attributes:
    """Keeps the Python values that a forward pass may read, to detect changes.

    These are the attributes of the modules and of their classes, and the globals that the classes'
    methods name. Raises `NotWatchableError` if a module's attribute holds a tensor or an array that
    is neither parameter nor buffer, or more than `MOST_VALUES` values.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._of_modules = [_Namespace(vars(module)) for module in modules]
        classes = {kind for module in modules for kind in type(module).__mro__}
        own = [
            kind for kind in classes if kind.__module__.split(".")[0] not in ("torch", "builtins")
        ]
        functions = [f for kind in own for f in vars(kind).values() if isinstance(f, FunctionType)]
        self._all = [
            *self._of_modules,
            *(_Namespace(vars(kind), strict=False) for kind in own),
            *(_Namespace(f.__globals__, f.__code__.co_names, strict=False) for f in functions),
        ]

    def unchanged(self) -> bool:
        """Whether all values are the same objects as before, or equal to them."""
        return all(namespace.unchanged() for namespace in self._all)

    def restore(self) -> None:
        """Set the attributes of the modules to the values that were kept."""
        for namespace in self._of_modules:
            namespace.restore()


class _Namespace:
    """Keeps the values of the names in a mapping; compares identities first, which is faster."""

    def __init__(
        self, mapping: Mapping[str, Any], names: Sequence[str] | None = None, *, strict: bool = True
    ) -> None:
        self._mapping = mapping
        self._names = None if names is None else [name for name in names if name in mapping]
        self._strict = strict
        self._keys = tuple(mapping) if self._names is None else tuple(self._names)
        self._values = self._read()
        self._frozen = self._freeze(self._keys)
        self._mutable = tuple(
            key for key, value in self._frozen.items() if not isinstance(value, (_Same, _Value))
        )
        self._frozen_mutable = {key: self._frozen[key] for key in self._mutable}

    def unchanged(self) -> bool:
        values = self._read()
        if len(values) == len(self._values) and all(map(operator.is_, values, self._values)):
            return not self._mutable or self._attempt(self._mutable) == self._frozen_mutable
        keys = tuple(self._mapping) if self._names is None else self._keys
        if self._attempt(keys) != self._frozen:
            return False
        self._values = values  # other objects with equal values: next time identities match
        return keys == self._keys

    def restore(self) -> None:
        assert isinstance(self._mapping, dict)
        for name in set(self._mapping) - set(self._keys):
            del self._mapping[name]
        self._mapping.update(zip(self._keys, self._values, strict=True))

    def _read(self) -> list[Any]:
        if self._names is None:
            return list(self._mapping.values())
        return [self._mapping.get(name) for name in self._names]

    def _attempt(self, keys: Sequence[str]) -> dict[str, object] | None:
        try:
            return self._freeze(keys)
        except NotWatchableError:
            return None

    def _freeze(self, keys: Sequence[str]) -> dict[str, object]:
        return {key: self._freeze_one(key, self._mapping.get(key)) for key in keys}

    def _freeze_one(self, key: str, value: object) -> object:
        # What modules, parameters, buffers and hooks a module holds is compared by `structure`.
        if (key in STANDARD and key != "training") or key.startswith("__"):
            return _Same(value)
        try:
            return _frozen(value, _Budget())
        except NotWatchableError:
            if self._strict:
                raise
            return _Same(value)


class _Same:
    """Wraps an object that is compared by identity."""

    def __init__(self, value: object) -> None:
        self.value = value  # kept alive, so that its id is not reused

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Value(tuple[Any, ...]):
    """An immutable value together with its type, since 1 == True."""

    __slots__ = ()


class _Budget:
    """Limits the number of values that are read from an object, and detects cycles."""

    def __init__(self) -> None:
        self.left = MOST_VALUES
        self.inside: set[int] = set()

    def enter(self, value: object) -> bool:
        self.left -= 1
        if self.left < 0:
            raise NotWatchableError
        known = id(value) in self.inside
        self.inside.add(id(value))
        return not known


def _frozen(value: object, budget: _Budget) -> object:
    """An immutable description of a value; two are equal if the value has not changed."""
    if isinstance(value, SIMPLE):
        return _Value((type(value), value))
    if isinstance(value, FIXED):
        return _Same(value)
    if isinstance(value, (Tensor, np.ndarray)):
        raise NotWatchableError
    if not budget.enter(value):
        return _Same(value)
    parts = _parts(value)
    if parts is None:
        return _Same(value)
    pictures = tuple(_frozen(part, budget) for part in parts)
    if type(value) is tuple and all(isinstance(picture, _Value) for picture in pictures):
        return _Value((tuple, *pictures))
    identity = type(value) if isinstance(value, (list, tuple, dict)) else _Same(value)
    return (identity, frozenset(pictures) if isinstance(value, (set, frozenset)) else pictures)


def _parts(value: object) -> Iterable[object] | None:
    """The values in a container or an object's `__dict__`; None for objects without one."""
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    held: Callable[[], dict[str, object]] | None = getattr(value, "__dict__", None)
    return None if held is None else [part for item in vars(value).items() for part in item]
