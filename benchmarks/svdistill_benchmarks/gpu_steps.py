"""Time and memory of training steps and epochs on a GPU, and what a loss asks of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Final
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from svdistill.common import Case, interleave, synchronise
from svdistill.config import DistillConfig
from svdistill.data import Augmentation, ResidentSplit
from svdistill.networks import build_network
from svdistill.taps import FeatureTaps
from svdistill.training import build_losses
from svdistill.training.batch import TrainingBatch
from svdistill_benchmarks.gpu_checks import UNTIL_RECORDED, NewWork
from svdistill_benchmarks.gpu_work import CLASSES, Work

# Operators that launch nothing, beside views; and those that launch several kernels, one by one.
SILENT: Final = ("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "lift_fresh")

FACTORISING: Final = ("linalg_cholesky_ex", "linalg_solve_triangular")

# These read as much as they write, whatever the size of their first argument.
PICKING: Final = ("gather", "index_select")


def time_step(new_work: NewWork, kind: str) -> dict[str, Any]:
    """Time whole training steps, and their peak memory.

    Args:
        new_work: makes the networks and the batch.
        kind: `eager`, `recorded` (CUDA graphs) or `compiled` (`torch.compile`).
    """
    with new_work() as work:
        run = _compiled(work) if kind == "compiled" else _trained(work)
        if kind == "recorded":
            work.record()
        small = work.setting.small
        for _ in range(1 if small else UNTIL_RECORDED if kind == "recorded" else 12):
            run()
        if work.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(work.device)
        case = Case(kind, run, work.setting.steps)
        rounds = 1 if small else 5
        (measured,) = interleave([case], rounds, warm_up=0, device=work.device)
        return {
            "seconds": measured.median,
            "quartiles": [measured.lower_quartile, measured.upper_quartile],
            "images_per_second": len(work.images) / measured.median,
            "peak_mb": _peak_mb(work.device),
            "task_loss": float(work.execute(TrainingBatch(work.images, work.labels), 0).task_loss),
        }


def _trained(work: Work) -> Callable[[], object]:
    return lambda: work.train(work.images, work.labels)


def _compiled(work: Work) -> Callable[[], object]:
    """A step of the user's own loop around a compiled `Distiller` or student."""
    backend = "eager" if work.setting.small else "inductor"
    distiller = work.distiller
    call: Any = torch.compile(work.student if distiller is None else distiller, backend=backend)

    def run() -> None:
        with work.precision.autocast():
            output = call(work.images)
        logits = output if distiller is None else output.logits
        task_loss = F.cross_entropy(logits.float(), work.labels)
        if distiller is None:
            task_loss.backward()
        else:
            distiller.backward(task_loss, output, progress=0.0)
        work.update()

    return run


def time_epoch(new_work: NewWork) -> dict[str, Any]:
    """Time an epoch of recorded steps: order, augmentation, steps; images lie on the device."""
    with new_work() as work:
        count = work.setting.epoch_images
        pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, device=work.device)
        labels = torch.randint(CLASSES, (count,), device=work.device)
        split = ResidentSplit(pixels, labels)
        augmentation = Augmentation("paper", 32, (0.5,) * 3, (0.25,) * 3).to(work.device)
        work.record()

        def epoch(number: int) -> None:
            size = len(work.images)
            for batch in split.batches(size, device=work.device, order_seed=number):
                if len(batch.labels) < size:
                    return
                images = augmentation(batch.images, seed=0, indices=batch.indices, view=number)
                images = images.contiguous(memory_format=torch.channels_last)
                work.train(images, batch.labels)

        epoch(0)
        synchronise(work.device)
        began = time.perf_counter()
        epoch(1)
        synchronise(work.device)
        seconds = time.perf_counter() - began
        watch = work.watch
        return {
            "seconds": seconds,
            "images_per_second": count / seconds,
            "peak_mb": _peak_mb(work.device),
            "svd_missed": int(watch.missed) / watch.decomposed if watch.decomposed else None,
        }


def _peak_mb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None


class OperatorCount(TorchDispatchMode):
    """Counts operators that launch kernels on the device meta, and the bytes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.factorisations = self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        aliases = [found.alias_info for found in function._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        written = _on_meta(result)
        if is_view or name in SILENT or not any(tensor.numel() for tensor in written):
            return result
        read = written if name in PICKING else _on_meta((args, kwargs))
        self.kernels += 1
        self.factorisations += name in FACTORISING
        self.bytes += _bytes(read) + _bytes(written)
        return result


def count_transfer(pair: str, config: DistillConfig, batch_size: int = 128) -> dict[str, Any]:
    """Count what the losses of a step ask of an accelerator; nothing is computed.

    Counted are the teacher's half, the student's half and the gradient of the student's taps, of
    the paper's networks at full width. The floor reads each tap once and writes each gradient once.
    """
    losses = [loss for loss in build_losses(config) if loss is not None]
    teacher_logits, teacher = _taps(f"{pair}_teacher", batch_size)
    logits, student = _taps(f"{pair}_student", batch_size)
    inputs = [*student, logits.requires_grad_()]
    counts: dict[str, Any] = {}
    # There is no autocast on the device meta; the first round makes constants.
    with mock.patch("torch.autocast", return_value=nullcontext()):
        for _ in range(2):
            with OperatorCount() as extract, torch.inference_mode():
                known = [loss.extract(teacher, teacher_logits) for loss in losses]
            with extract:
                known = [one.map(torch.clone) for one in known]
            with OperatorCount() as forward:
                values = [
                    loss(student, logits, one) for loss, one in zip(losses, known, strict=True)
                ]
            with OperatorCount() as backward:
                found = torch.autograd.grad(values, inputs, allow_unused=True)
    for name in ("kernels", "factorisations", "bytes"):
        halves = [getattr(one, name) for one in (extract, forward, backward)]
        counts[name] = dict(zip(("extract", "forward", "backward"), halves, strict=True))
    read = list(teacher) if any(loss.needs_taps for loss in losses) else []
    read += [teacher_logits] if any(loss.needs_logits for loss in losses) else []
    for tensor, gradient in zip(inputs, found, strict=True):
        read += [] if gradient is None else [tensor, gradient]
    return {**counts, "floor": _bytes(read)}


def _taps(network: str, batch_size: int) -> tuple[Tensor, list[Tensor]]:
    """Logits and taps of a network on the device meta; the taps take gradients."""
    with torch.device("meta"), torch.no_grad():
        built: Any = build_network(network, CLASSES)
        built = built.eval().to(memory_format=torch.channels_last)
        images = torch.empty(batch_size, 3, 32, 32).to(memory_format=torch.channels_last)
        recording = FeatureTaps(built, built.tap_paths).run(images)
    return recording.output, [tap.requires_grad_() for tap in recording.features]


def _on_meta(values: Any) -> list[Tensor]:
    """The tensors of the device, each once."""
    tensors = [one for one in tree_leaves(values) if isinstance(one, Tensor) and one.is_meta]
    return list({id(tensor): tensor for tensor in tensors}.values())


def _bytes(tensors: Sequence[Tensor]) -> int:
    """The bytes of tensors, of an expanded one without its repetitions."""
    total = 0
    for tensor in tensors:
        sides = zip(tensor.shape, tensor.stride(), strict=True)
        entries = [size for size, stride in sides if stride or not size]
        total += tensor.element_size() * torch.Size(entries).numel()
    return total
