"""Time and memory of training steps and epochs on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from svdistill.common import Case, interleave, synchronise
from svdistill.data import Augmentation, ResidentSplit
from svdistill.training.step import TrainingBatch
from svdistill_benchmarks.gpu_checks import UNTIL_RECORDED, NewWork
from svdistill_benchmarks.gpu_work import CLASSES, Work


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
