"""The frozen teacher: runs a model in the fastest way that reproduces its results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, fx, nn

from svdistill.common import as_logits
from svdistill.distillation.checks import require_module
from svdistill.distillation.teacher_changes import SIMPLE, Attributes, Weights, structure
from svdistill.distillation.teacher_forms import (
    naming_exports,
    require_eval_export,
    set_eval,
    trace,
)
from svdistill.parallel import is_sharded
from svdistill.taps import FeatureTaps, Recording, channels_first, module_path

MOST_REBUILDS: Final = 3


class Form(NamedTuple):
    """One way to run the teacher: its name, and the function that does it."""

    name: str
    run: Callable[..., Recording]


class FrozenTeacher:
    """A trained model that returns the features at its taps, and its logits if needed.

    It runs in one of three forms, the fastest first. ``"traced"``: a copy made by `torch.fx`, which
    ends after the last tap, has batch norms and ReLUs folded into convolutions on a CPU, and runs
    in inference mode. ``"stopped"``: the model itself, stopped after its last tap. ``"whole"``: the
    whole model. For every new shape, dtype and autocast setting of the inputs, the first batch runs
    through the whole model, and forms that do not reproduce its result are dropped. A teacher whose
    weights are sharded over processes always runs whole and once per batch, since all processes
    must gather the shards at the same time.

    The model may change between runs. Before the traced form runs, its copies of weights are
    compared bit by bit with the model's weights, and the attributes of the modules and their
    classes and the globals that their methods name are compared with their values at the time of
    tracing. A model is not traced if it changes often, if its forward pass changes its own
    attributes, or if it keeps tensors outside of its parameters and buffers. A change of a value
    that the forward pass reads from elsewhere, such as a file, is not detected: call `refresh`.

    The features of the traced form are inference tensors: use them in `inference_mode`, and clone
    outside of it those that autograd needs.

    Args:
        model: any `nn.Module`, also a TorchScript module or an `ExportedProgram.module()`. The
            `requires_grad` of its parameters is set to False, and it always runs in eval mode.
        paths: module paths of the taps, see `FeatureTaps`.
        needs_logits: whether the model's logits are computed.
        student: the network that learns from the model. Parameters that both share keep their
            `requires_grad`, and shared modules keep their training mode.

    Raises:
        ArgumentError: `model` is no module, or was exported in training mode; or see `FeatureTaps`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        >>> teacher = FrozenTeacher(model, ["1"], needs_logits=False)
        >>> recording = teacher.run(torch.rand(2, 3, 6, 6))
        >>> recording.output, recording.features[0].shape, teacher.form
        (None, torch.Size([2, 8, 4, 4]), 'traced')
    """

    def __init__(
        self,
        model: nn.Module,
        paths: Sequence[str],
        needs_logits: bool,
        student: nn.Module | None = None,
    ) -> None:
        require_module("teacher", model)
        require_eval_export(model)
        self._taps = FeatureTaps(model, paths)
        self.model = model
        self._needs_logits = needs_logits
        self.student = student
        self._rebuilds = 0
        kept = set() if student is None else set(map(id, student.parameters()))
        for parameter in model.parameters():
            if id(parameter) not in kept:
                parameter.requires_grad_(False)
        self._forget()
        self.rest()

    @property
    def needs_logits(self) -> bool:
        """Whether the model's logits are computed; a change makes the model be traced again."""
        return self._needs_logits

    @needs_logits.setter
    def needs_logits(self, wanted: bool) -> None:
        if wanted != self._needs_logits:
            self._needs_logits = wanted
            self.refresh()

    @property
    def form(self) -> str:
        """Name of the form in which the model runs at present: traced, stopped or whole."""
        return self._forms[0].name if self._forms and not self._sharded else "whole"

    def run(self, *inputs: Any, **kwargs: Any) -> Recording:
        """Run the teacher on its inputs, such as images [B, ...].

        Returns:
            `Recording(output, features)`; the output is the logits, or None without `needs_logits`.

        Raises:
            ArgumentError: see `FeatureTaps.run`; or the output has no logits, see `as_logits`.
        """
        students = self.rest()
        try:
            if self._sharded:
                return self._run_whole(*inputs, **kwargs)
            if self._is_stale():
                self._forget()
                students += self.rest()  # also modules that were added to the model since
                self._build()
            situation = _situation((inputs, kwargs))
            if situation is None:
                return self._run_whole(*inputs, **kwargs)
            if situation not in self._verified:
                return self._verify(situation, inputs, kwargs)
            return self._forms[0].run(*inputs, **kwargs)
        finally:
            for module in students:
                module.training = True

    def rest(self) -> list[nn.Module]:
        """Put the model in eval mode.

        Returns:
            The modules shared with the student that were in training mode: the caller must put
            them back into it.
        """
        training = [module for module in self._modules if getattr(module, "training", False)]
        if not training:
            return []
        students = set() if self.student is None else set(map(id, self.student.modules()))
        shared = [module for module in training if id(module) in students]
        if not shared:
            set_eval(self.model)
        # If modules are shared, only flags are set: `eval` may do more, such as merging weights.
        for module in shared and training:
            module.training = False
        return shared

    def refresh(self) -> None:
        """Drop all forms; the next batch runs through the whole model, which is traced again."""
        self._rebuilds = 0
        self._forget()

    def _forget(self) -> None:
        self._modules = list(self.model.modules())
        self._sharded = any(map(is_sharded, self.model.parameters()))
        self._forms: list[Form] = []
        self._verified: set[Hashable] = set()
        self._structure: tuple[int, ...] | None = None
        self._attributes: Attributes | None = None
        self._weights = Weights(())

    def _is_stale(self) -> bool:
        """Whether the model has changed since its forms were built, or none were built yet.

        Values are compared for the traced form only: the other forms run the model itself.
        """
        if self._structure is None:
            return True
        if structure(self._modules) == self._structure and (
            self._attributes is None or (self._attributes.unchanged() and self._weights.unchanged())
        ):
            return False
        self._rebuilds += 1
        return True

    def _build(self) -> None:
        """Build the forms of the present model, and list them with the fastest first."""
        self._structure = structure(self._modules)
        self._forms.append(Form("whole", self._run_whole))
        if not self.needs_logits:
            self._forms.insert(0, Form("stopped", self._run_stopped))
        # A trace holds some modules' operations instead of calling them: their hooks would not run.
        hooked = any(m._forward_hooks or m._forward_pre_hooks for m in self._modules)
        if not hooked and self._rebuilds <= MOST_REBUILDS:
            with suppress(Exception), torch.inference_mode(False), torch.no_grad():
                self._trace()

    def _trace(self) -> None:
        attributes = Attributes(self._modules)
        modules = list(map(module_path, self._taps.paths))
        try:
            traced, copied = trace(self.model, modules, keep_output=self.needs_logits)
        finally:
            constant = attributes.unchanged()
            if not constant:
                attributes.restore()  # otherwise proxies of the trace stay in the model
        if constant:
            self._weights = Weights(copied)
            self._attributes = attributes
            self._forms.insert(0, Form("traced", partial(self._run_traced, traced)))

    def _verify(
        self, situation: Hashable, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Recording:
        """Run the whole model, and drop forms that differ from it for inputs of this kind."""
        expected = self._run_whole(*inputs, **kwargs)
        if self._attributes is not None and not self._attributes.unchanged():
            self._drop_fastest()  # the forward pass changes attributes that the next may read
        while len(self._forms) > 1 and not _reproduces(self._forms[0], inputs, kwargs, expected):
            self._drop_fastest()
        self._verified.add(situation)
        # Not `expected`: a resumed run must get the same bits, whichever batch comes first in it.
        return self._forms[0].run(*inputs, **kwargs)

    def _drop_fastest(self) -> None:
        del self._forms[0]
        self._attributes, self._weights = None, Weights(())
        self._verified.clear()

    def _run_whole(self, *inputs: Any, **kwargs: Any) -> Recording:
        # Not in inference mode, whose tensors do not count in-place writes: taps check the count.
        with torch.inference_mode(False), torch.no_grad(), naming_exports(self.model):
            recording = self._taps.run(*inputs, **kwargs)
        return Recording(self._logits(recording.output), recording.features)

    def _run_stopped(self, *inputs: Any, **kwargs: Any) -> Recording:
        with torch.inference_mode(False), torch.no_grad():
            return Recording(None, self._taps.run_to_last_tap(*inputs, **kwargs))

    def _run_traced(self, traced: fx.GraphModule, *inputs: Any, **kwargs: Any) -> Recording:
        with torch.inference_mode():
            # Unlike `traced.forward`, `traced(images)` would print to stderr when it fails.
            output, features = traced.forward(*inputs, **kwargs)
            features = tuple(map(partial(channels_first, self.model), self._taps.paths, features))
            return Recording(self._logits(output), features)

    def _logits(self, output: Any) -> Tensor | None:
        return as_logits(output) if self.needs_logits else None

    def __getstate__(self) -> dict[str, Any]:
        # A copy must build its own forms, since those of the original hold its model's tensors.
        built = ("_modules", "_forms", "_verified", "_structure", "_attributes", "_weights")
        return {name: value for name, value in self.__dict__.items() if name not in built}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _situation(inputs: object) -> Hashable:
    """A key of the inputs' shapes, dtypes, devices and constants, and of autocast.

    A model may run other code for inputs with another key. None if an input has an unknown type.
    """
    devices: set[str] = set()
    try:
        described = _described(inputs, devices)
    except TypeError:
        return None
    autocast = [
        (device, torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device))
        for device in sorted(devices)
    ]
    return described, tuple(autocast)


def _described(value: object, devices: set[str]) -> Hashable:
    if isinstance(value, Tensor):
        devices.add(value.device.type)
        return value.shape, value.dtype, value.device
    if isinstance(value, Mapping):
        items = [(key, _described(item, devices)) for key, item in value.items()]
        return type(value), tuple(items)
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_described(item, devices) for item in value)
    if isinstance(value, float):  # the traced graph takes floats as inputs, not as constants
        return float
    if isinstance(value, SIMPLE):
        return type(value), value
    raise TypeError


def _reproduces(
    form: Form, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], expected: Recording
) -> bool:
    """Whether a form runs without an error, and gives `expected` up to rounding."""
    try:
        found = form.run(*inputs, **kwargs)
        return _equal(found.output, expected.output) and all(
            map(_equal, found.features, expected.features)
        )
    except Exception:  # of any kind: the whole model ran without one
        return False


def _equal(found: Any, expected: Any) -> bool:
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return found is expected is None
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    # The results must agree in half of the arithmetic's digits. TensorFloat-32, which GPUs may use
    # for float32, has as many digits as float16.
    coarse = expected.is_cuda and expected.dtype == torch.float32
    tolerance = torch.finfo(torch.float16 if coarse else expected.dtype).eps ** 0.5
    wide = torch.promote_types(expected.dtype, torch.float32)
    error = torch.linalg.vector_norm(found.to(wide) - expected.to(wide))
    return bool(error <= tolerance * torch.linalg.vector_norm(expected.to(wide)))
