"""The frozen teacher: runs the fastest form of a model that agrees with it."""

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
    """One way to run the teacher, and its name."""

    name: str
    run: Callable[..., Recording]


class FrozenTeacher:
    """A trained model that gives the outputs of its taps, and its logits if needed.

    Three forms, the fastest first. ``"traced"``: `torch.fx` cuts the model after its last tap, and
    on a CPU folds its batch norms and ReLUs, in inference mode. ``"stopped"``: the model itself,
    stopped after its last tap. ``"whole"``: the model. For every shape, dtype and autocast setting
    of the inputs the first batch runs through the whole model, and forms that do not reproduce its
    result are dropped. A teacher whose weights are sharded over processes runs whole, once for each
    batch: its processes gather the shards together.

    A model may change between runs. Before the traced form runs, its copies of weights are compared
    bit by bit with the model's, and so are the attributes of the modules, of their classes and of
    the globals that their methods name. A model that changes often, one whose forward pass changes
    its own attributes, and one that keeps tensors outside of its parameters and buffers are not
    traced. A value that a forward pass reads from elsewhere, such as the clock, is not noticed:
    call `refresh` then.

    The features of the traced form are inference tensors: use them in `inference_mode`, and clone
    outside it what autograd needs.

    Args:
        model: any `nn.Module`, TorchScript and `ExportedProgram.module()` too. Its parameters stop
            requiring gradients, and every run is in eval mode.
        paths: module paths, see `FeatureTaps`.
        needs_logits: whether the model's logits are computed.
        student: a network whose parameters keep `requires_grad`, and whose modules keep their mode,
            if the model shares them.

    Raises:
        ArgumentError: no module; an exported program in training mode; or see `FeatureTaps`.

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
        """Whether the model's logits are wanted."""
        return self._needs_logits

    @needs_logits.setter
    def needs_logits(self, wanted: bool) -> None:
        if wanted != self._needs_logits:
            self._needs_logits = wanted
            self.refresh()

    @property
    def form(self) -> str:
        """Name of the form that runs at present: traced, stopped or whole."""
        return self._forms[0].name if self._forms and not self._sharded else "whole"

    def run(self, *inputs: Any, **kwargs: Any) -> Recording:
        """Run the teacher on its inputs, such as images [B, ...], as far as needed.

        Returns:
            `Recording(output, features)`; the output is the logits, or None if not needed.

        Raises:
            ArgumentError: see `FeatureTaps.run`; or an output without logits, see `as_logits`.
        """
        students = self.rest()
        try:
            if self._sharded:
                return self._run_whole(*inputs, **kwargs)
            if self._is_stale():
                self._forget()
                students += self.rest()  # with what was put into it since
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
            The modules of the student among those that were in training mode, to restore.
        """
        training = [module for module in self._modules if getattr(module, "training", False)]
        if not training:
            return []
        students = set() if self.student is None else set(map(id, self.student.modules()))
        shared = [module for module in training if id(module) in students]
        if not shared:
            set_eval(self.model)
        for module in shared and training:  # `eval` may do more than this, such as merging weights
            module.training = False
        return shared

    def refresh(self) -> None:
        """Forget all forms: the next batch runs through the whole model, which is traced again."""
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
        """Whether the model has changed since the forms were made.

        Only the traced form holds values of its own; the others run the model itself.
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
        """List the forms, fastest first."""
        self._structure = structure(self._modules)
        self._forms.append(Form("whole", self._run_whole))
        if not self.needs_logits:
            self._forms.insert(0, Form("stopped", self._run_stopped))
        # A traced model does not call the hooks of modules that have no node.
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
                attributes.restore()  # else placeholders stay in the model
        if constant:
            self._weights = Weights(copied)
            self._attributes = attributes
            self._forms.insert(0, Form("traced", partial(self._run_traced, traced)))

    def _verify(
        self, situation: Hashable, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Recording:
        """Run the whole model, and drop each form that differs from it in this situation."""
        expected = self._run_whole(*inputs, **kwargs)
        if self._attributes is not None and not self._attributes.unchanged():
            self._drop_fastest()  # the forward pass changes what the next one may read
        while len(self._forms) > 1 and not _reproduces(self._forms[0], inputs, kwargs, expected):
            self._drop_fastest()
        self._verified.add(situation)
        # Not `expected`: the first batch must give the same bits as later ones, for resuming.
        return self._forms[0].run(*inputs, **kwargs)

    def _drop_fastest(self) -> None:
        del self._forms[0]
        self._attributes, self._weights = None, Weights(())
        self._verified.clear()

    def _run_whole(self, *inputs: Any, **kwargs: Any) -> Recording:
        # Not in inference mode: its tensors do not count writes.
        with torch.inference_mode(False), torch.no_grad(), naming_exports(self.model):
            recording = self._taps.run(*inputs, **kwargs)
        return Recording(self._logits(recording.output), recording.features)

    def _run_stopped(self, *inputs: Any, **kwargs: Any) -> Recording:
        with torch.inference_mode(False), torch.no_grad():
            return Recording(None, self._taps.run_to_last_tap(*inputs, **kwargs))

    def _run_traced(self, traced: fx.GraphModule, *inputs: Any, **kwargs: Any) -> Recording:
        with torch.inference_mode():
            # `traced(images)` would print to stderr if it fails.
            output, features = traced.forward(*inputs, **kwargs)
            features = tuple(map(partial(channels_first, self.model), self._taps.paths, features))
            return Recording(self._logits(output), features)

    def _logits(self, output: Any) -> Tensor | None:
        return as_logits(output) if self.needs_logits else None

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own forms: these hold this model's tensors.
        built = ("_modules", "_forms", "_verified", "_structure", "_attributes", "_weights")
        return {name: value for name, value in self.__dict__.items() if name not in built}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _situation(inputs: object) -> Hashable:
    """Everything on which the path through a model's code may depend; None for unknown objects."""
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
    if isinstance(value, float):  # a graph reads it in each run
        return float
    if isinstance(value, SIMPLE):
        return type(value), value
    raise TypeError


def _reproduces(
    form: Form, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], expected: Recording
) -> bool:
    """Whether a form runs, and gives the whole model's result up to rounding."""
    try:
        found = form.run(*inputs, **kwargs)
        return _equal(found.output, expected.output) and all(
            map(_equal, found.features, expected.features)
        )
    except Exception:  # whatever a rewritten model raises, the whole one did not
        return False


def _equal(found: Any, expected: Any) -> bool:
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return found is expected is None
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    # Half of the digits of the arithmetic. In TensorFloat-32, which GPUs may use for float32, these
    # are float16's.
    coarse = expected.is_cuda and expected.dtype == torch.float32
    tolerance = torch.finfo(torch.float16 if coarse else expected.dtype).eps ** 0.5
    wide = torch.promote_types(expected.dtype, torch.float32)
    error = torch.linalg.vector_norm(found.to(wide) - expected.to(wide))
    return bool(error <= tolerance * torch.linalg.vector_norm(expected.to(wide)))
