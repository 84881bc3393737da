"""Correctness on a GPU: losses, recorded training, synchronisation, dropout and resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from svdistill.config import DistillConfig
from svdistill.training import build_losses
from svdistill_benchmarks.gpu_work import CLASSES, Setting, Work

NewWork = Callable[[], AbstractContextManager[Work]]

# Steps after which both kinds of a step with clip_interval 10 are recorded.
UNTIL_RECORDED: Final = 45

VALUE_BOUND: Final = 1e-4
GRADIENT_BOUND: Final = 1e-2
DRIFT_BOUND: Final = 0.05  # of the distance that the weights moved


def check_loss(name: str, setting: Setting) -> dict[str, Any]:
    """Compare a loss and its gradients, in float32 on the device, with float64 on the CPU."""
    config = DistillConfig(output="", loss=name)
    expected = _loss_and_gradients(config, setting, torch.float64, torch.device("cpu"))
    found = _loss_and_gradients(config, setting, torch.float32, setting.device)
    errors = [_relative(*pair) for pair in zip(found, expected, strict=True)]
    passed = errors[0] < VALUE_BOUND and errors[1] < GRADIENT_BOUND
    return {"value_error": errors[0], "gradient_error": errors[1], "passed": passed}


def _loss_and_gradients(
    config: DistillConfig, setting: Setting, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    loss = build_losses(config).whole
    random = torch.Generator().manual_seed(0)
    batch = 2 if setting.small else 32
    shapes = [(16, 8, 8), (32, 4, 4), (32, 4, 4)]

    def inputs() -> list[Tensor]:
        maps = [_maps(batch, *shape, random) for shape in shapes]
        logits = torch.randn(batch, CLASSES, generator=random, dtype=torch.float64)
        return [tensor.to(device, dtype) for tensor in (*maps, logits)]

    *teacher, teacher_logits = inputs()
    student = [tensor.requires_grad_() for tensor in inputs()]
    labels = torch.randint(CLASSES, (batch,), generator=random).to(device)
    value = loss(student[:-1], student[-1], loss.extract(teacher, teacher_logits), labels)
    gradients = torch.autograd.grad(value, student, allow_unused=True)
    return value, torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def _maps(batch: int, channels: int, height: int, width: int, random: torch.Generator) -> Tensor:
    """Feature maps with well separated singular values, whose gradients are well conditioned."""
    size = min(channels, height * width)

    def orthonormal(rows: int) -> Tensor:
        noise = torch.randn(batch, rows, size, generator=random, dtype=torch.float64)
        return torch.linalg.qr(noise).Q

    values = torch.linspace(3.0, 0.1, size, dtype=torch.float64).exp()
    matrices = orthonormal(channels) * values @ orthonormal(height * width).mT
    return matrices.unflatten(2, (height, width))


def check_recording(new_work: NewWork) -> dict[str, Any]:
    """Compare the weights after 40 recorded and 40 eager steps, without dropout."""
    moves = []
    for recorded in (False, True):
        with new_work() as work:
            for module in work.student.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            start = work.weights()
            if recorded:
                work.record()
            for number in range(4 if work.setting.small else 40):
                work.train(work.images, work.labels, progress=number // 20)
            moves.append(work.weights() - start)
    drift = _relative(moves[1], moves[0])
    return {"drift": drift, "passed": drift < DRIFT_BOUND}


def check_synchronisation(new_work: NewWork) -> dict[str, Any]:
    """Make ten eager and ten recorded steps in which a host synchronisation raises an error."""
    for recorded in (False, True):
        with new_work() as work:
            if recorded:
                work.record()
            for _ in range(_warm_up(work)):
                work.train(work.images, work.labels)
            with _no_synchronisation(work.device):
                for _ in range(2 if work.setting.small else 10):
                    work.train(work.images, work.labels)
    return {"passed": True}


def check_dropout(new_work: NewWork) -> dict[str, Any]:
    """Replays draw new dropout masks, and `torch.manual_seed` repeats them."""
    with new_work() as work:
        for group in work.optimizer.param_groups:
            group["lr"] = 0.0
        work.record()
        for _ in range(_warm_up(work)):
            work.train(work.images, work.labels)
        losses = []
        for _ in range(2):
            torch.manual_seed(1)
            losses.append([float(work.train(work.images, work.labels)) for _ in range(3)])
    repeated = max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-4
    return {"repeated": repeated, "passed": repeated and len(set(losses[0])) == len(losses[0])}


def check_resume(new_work: NewWork) -> dict[str, Any]:
    """Compare training that was interrupted after half its steps with uninterrupted training."""
    with new_work() as work:
        half = 3 if work.setting.small else UNTIL_RECORDED
        start = work.weights()
        work.record()
        for _ in range(half):
            work.train(work.images, work.labels)
        state = _state(work)
        for _ in range(half):
            work.train(work.images, work.labels)
        expected = work.weights() - start
    with new_work() as work:
        work.record()
        _resume(work, state)
        for _ in range(half):
            work.train(work.images, work.labels)
        drift = _relative(work.weights() - start, expected)
    return {"drift": drift, "passed": drift < DRIFT_BOUND}


def _state(work: Work) -> dict[str, Any]:
    assert work.distiller is not None
    cuda = work.device.type == "cuda"
    state = {
        "distiller": work.distiller.state_dict(),
        "optimizer": work.optimizer.state_dict(),
        "step": work.step.state_dict(),
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(work.device) if cuda else None,
    }
    return _copy(state)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _resume(work: Work, state: dict[str, Any]) -> None:
    assert work.distiller is not None
    work.distiller.load_state_dict(state["distiller"])
    work.optimizer.load_state_dict(state["optimizer"])
    work.step.load_state_dict(state["step"])
    torch.set_rng_state(state["random"])
    if state["cuda_random"] is not None:
        torch.cuda.set_rng_state(state["cuda_random"], work.device)


def _warm_up(work: Work) -> int:
    return 12 if work.setting.small else UNTIL_RECORDED


@contextmanager
def _no_synchronisation(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _relative(found: Tensor, expected: Tensor) -> float:
    found, expected = (tensor.detach().cpu().double() for tensor in (found, expected))
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))
