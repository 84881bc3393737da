"""The frozen teacher: chooses the fastest form of a model that agrees with it, and runs that."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from svdistill.frozen_teacher.tracing import trace
from svdistill.logits import as_logits
from svdistill.parallel import is_sharded
from svdistill.taps import FeatureTaps, Recording, write_count
from svdistill.taps.layouts import channels_first, module_path


class Form(NamedTuple):
    """One way to run the teacher, and its name."""

    name: str
    run: Callable[[Tensor], Recording]


class FrozenTeacher:
    """A trained model that is only looked at: its taps, and its output if asked for.

    Three forms, the fastest first. ``"traced"``: `torch.fx` cuts the model behind its last tap and
    folds its batch norms, on a CPU also its ReLUs, in inference mode. ``"stopped"``: the model
    itself, left behind its last tap. ``"whole"``: the model. For every shape, dtype and autocast
    setting of the images the first batch goes through the whole model, and a form that does not
    reproduce what that gives is not used. A teacher whose weights are sharded over processes runs
    whole, once for each batch: its processes gather the shards together.

    Weights that change, by `load_state_dict`, in place or by moving the model, are noticed; writes
    through `.data` and changed Python attributes are not.

    The features of the traced form are inference tensors. Use them within `inference_mode`, and
    clone outside it what autograd shall see.

    Args:
        model: any `nn.Module` that takes images alone. Its parameters stop requiring gradients, and
            it is put in eval mode before every run.
        paths: module paths, see `FeatureTaps`.
        needs_logits: whether the model's logits are wanted; else nothing is computed for them.

    Raises:
        ArgumentError: see `FeatureTaps`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        >>> teacher = FrozenTeacher(model, ["1"], needs_logits=False)
        >>> recording = teacher.run(torch.rand(2, 3, 6, 6))
        >>> recording.output, recording.features[0].shape, teacher.form
        (None, torch.Size([2, 8, 4, 4]), 'traced')
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], *, needs_logits: bool) -> None:
        self._taps = FeatureTaps(model, paths)
        self.model = model.requires_grad_(False).eval()
        self.needs_logits = needs_logits
        self._forget()

    @property
    def form(self) -> str:
        """Name of the form that runs at present: traced, stopped or whole."""
        return self._forms[0].name if self._forms and not self._sharded else "whole"

    def run(self, images: Tensor) -> Recording:
        """Run the teacher as far as is needed.

        Args:
            images: what the model takes, [B, ...].

        Returns:
            `Recording(output, features)`; the output is the logits, or None if not needed.

        Raises:
            ArgumentError: see `FeatureTaps.run`; or an output without logits, see `as_logits`.
        """
        if any(module.training for module in self._modules):
            self.model.eval()
        if self._sharded:
            return self._run_whole(images)
        if self._weights() != self._built_from:
            self._build()
        situation = _situation(images)
        if situation not in self._verified:
            return self._verify(images, situation)
        return self._forms[0].run(images)

    def _forget(self) -> None:
        self._modules = list(self.model.modules())
        self._sharded = any(map(is_sharded, self.model.parameters()))
        self._forms: list[Form] = []
        self._verified: set[Hashable] = set()
        self._built_from: tuple[int, ...] | None = None

    def _build(self) -> None:
        """List the forms, fastest first; the last one is the model itself."""
        self._forget()
        self.model.eval()  # with what was put into it since
        self._built_from = self._weights()
        self._forms.append(Form("whole", self._run_whole))
        if not self.needs_logits:
            self._forms.insert(0, Form("stopped", self._run_stopped))
        # A traced model would not call the hooks of modules that have no node of their own.
        if not any(m._forward_hooks or m._forward_pre_hooks for m in self._modules):
            with suppress(Exception), torch.inference_mode(False), torch.no_grad():
                modules = list(map(module_path, self._taps.paths))
                traced = trace(self.model, modules, keep_output=self.needs_logits)
                self._forms.insert(0, Form("traced", partial(self._run_traced, traced)))

    def _verify(self, images: Tensor, situation: Hashable) -> Recording:
        """Run the whole model, and drop each form that differs from it in this situation."""
        expected = self._run_whole(images)
        while len(self._forms) > 1 and not _reproduces(self._forms[0], images, expected):
            del self._forms[0]
            self._verified.clear()
        self._verified.add(situation)
        # Not `expected`: the first batch must come out as it would later, or resuming shows.
        return self._forms[0].run(images)

    def _run_whole(self, images: Tensor) -> Recording:
        # Not in inference mode: there no tensor tells whether it was overwritten.
        with torch.inference_mode(False), torch.no_grad():
            recording = self._taps.run(images)
        return Recording(self._logits(recording.output), recording.features)

    def _run_stopped(self, images: Tensor) -> Recording:
        with torch.inference_mode(False), torch.no_grad():
            return Recording(None, self._taps.run_to_last_tap(images))

    def _run_traced(self, traced: fx.GraphModule, images: Tensor) -> Recording:
        with torch.inference_mode():
            # `traced(images)` would print to stderr where it fails, in a form only tried out.
            output, features = traced.forward(images)
            features = tuple(map(partial(channels_first, self.model), self._taps.paths, features))
            return Recording(self._logits(output), features)

    def _logits(self, output: Any) -> Tensor | None:
        return as_logits(output) if self.needs_logits else None

    def _weights(self) -> tuple[int, ...]:
        """Identify modules, hooks and tensors as they are now; cheap enough for every run."""
        marks: list[int] = []
        for module in self._modules:
            marks += (len(module._forward_hooks), len(module._forward_pre_hooks))
            marks += map(id, module._modules.values())
            for tensors in (module._parameters, module._buffers):
                for tensor in tensors.values():
                    if tensor is not None and type(tensor) in (Tensor, nn.Parameter):
                        marks += (id(tensor), tensor.data_ptr(), write_count(tensor))
                    else:  # none, or of a kind that may have no storage of its own
                        marks.append(id(tensor))
        return tuple(marks)

    def __getstate__(self) -> dict[str, Any]:
        # A copy finds its own forms: those here are tied to this model's tensors.
        built = ("_modules", "_forms", "_verified", "_built_from")
        return {name: value for name, value in self.__dict__.items() if name not in built}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _situation(images: Tensor) -> Hashable:
    """Name all that may make a model take another way through its code."""
    device = images.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return images.shape, images.dtype, images.device, autocast


def _reproduces(form: Form, images: Tensor, expected: Recording) -> bool:
    """Whether a form runs, and gives what the whole model gave up to rounding."""
    try:
        found = form.run(images)
        return _equal(found.output, expected.output) and all(
            map(_equal, found.features, expected.features)
        )
    except Exception:  # whatever a rewritten model may raise, the whole one did not
        return False


def _equal(found: Any, expected: Any) -> bool:
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return found is expected is None
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    # Half of the digits that the arithmetic has. In TensorFloat-32, which GPUs may use for
    # float32, it has no more than in float16.
    coarse = expected.is_cuda and expected.dtype == torch.float32
    tolerance = torch.finfo(torch.float16 if coarse else expected.dtype).eps ** 0.5
    wide = torch.promote_types(expected.dtype, torch.float32)
    error = torch.linalg.vector_norm(found.to(wide) - expected.to(wide))
    return bool(error <= tolerance * torch.linalg.vector_norm(expected.to(wide)))
