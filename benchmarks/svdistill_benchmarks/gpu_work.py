"""Networks, a batch and a training step for the cases of `svdistill_benchmarks.gpu`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from svdistill.config import DistillConfig
from svdistill.distillation import Distiller
from svdistill.linalg import Convergence, watch_convergence
from svdistill.networks import build_network
from svdistill.taps import TapPairs, pair_taps
from svdistill.training import build_losses
from svdistill.training.batch import TrainingBatch
from svdistill.training.cuda_graphs import CUDAGraphStep, CUDARecorder, Recorder
from svdistill.training.step import DistillStep, Step, TaskStep

CLASSES: Final = 100

# Options of `distill`, or None for the student alone.
METHODS: Final[dict[str, DistillConfig | None]] = {
    "default": DistillConfig(output="").filled(),
    "plain student": None,
    "SVD": DistillConfig(output="", loss="svd", clip="norm"),
    "FSP": DistillConfig(output="", loss="fsp", clip="none"),
    "soft target": DistillConfig(output="", loss="soft_target", clip="none"),
    "position SVD + soft target": DistillConfig(
        output="", loss="position_svd+soft_target"
    ).filled(),
    "cosines of positions": DistillConfig(output="", loss="cosine").filled(),
}

PAPER: Final = ("vgg", "mobilenet", "resnext")


@dataclass(frozen=True)
class Setting:
    """Where the cases run, and whether on tiny networks."""

    device: torch.device
    small: bool = False

    @property
    def steps(self) -> int:
        """Timed steps in a row."""
        return 2 if self.small else 20

    @property
    def epoch_images(self) -> int:
        """Images of a timed epoch."""
        return 16 if self.small else 50_000


class Precision:
    """The part of accelerate's `Accelerator` that a `Step` uses."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        scaled = name == "fp16" and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(device.type) if scaled else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Run the networks in this precision."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.name in ("bf16", "fp16"))

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()


class EagerRecorder:
    """Runs the work again instead of a recording, for devices without CUDA graphs."""

    def warm_up(self, work: Callable[[], Any]) -> Any:
        """Run the work."""
        return work()

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Return the work."""
        return work


class Work:
    """A student and its step, a batch, and an optimizer; equal for equal arguments."""

    def __init__(
        self, pair: str, method: str, precision: str, setting: Setting, watch: Convergence
    ) -> None:
        self.setting = setting
        self.watch = watch
        self.device = setting.device
        self.precision = Precision(precision, self.device)
        torch.manual_seed(0)
        teacher, self.student = (self._place(net) for net in _networks(pair, setting.small))
        side = 224 if pair not in PAPER and not setting.small else 32
        count = 4 if setting.small else 64 if side == 224 else 128
        images = torch.randn(count, 3, side, side, device=self.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASSES, (count,), device=self.device)
        self.distiller = self._distiller(METHODS[method], teacher.eval().requires_grad_(False))
        step: Step = (
            TaskStep(self.student, self.precision)
            if self.distiller is None
            else DistillStep(self.distiller, self.precision, 1.0, 1.0)
        )
        step.train_mode()
        self.step = step
        self.execute: Step | CUDAGraphStep = step
        self.parameters = step.parameters()
        self.optimizer = torch.optim.SGD(
            self.parameters, 0.01, 0.9, nesterov=True, weight_decay=1e-4
        )

    def _place(self, network: nn.Module) -> nn.Module:
        placed: nn.Module = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed

    def _distiller(self, config: DistillConfig | None, teacher: nn.Module) -> Distiller | None:
        if config is None:
            return None
        losses = build_losses(config)
        paths = getattr(self.student, "tap_paths", None)
        taps = (
            pair_taps(teacher, self.student, self.images[:2])
            if paths is None
            else TapPairs(teacher.tap_paths, paths)  # type: ignore[arg-type]
        )
        distiller = Distiller(
            teacher,
            self.student,
            losses.clipped,
            taps=taps,
            clip=config.clip,
            unclipped=losses.unclipped,
        )
        return distiller.to(self.device)

    def record(self) -> None:
        """Record the step as CUDA graphs from now on."""
        cuda = self.device.type == "cuda"
        recorder: Recorder = CUDARecorder(self.device) if cuda else EagerRecorder()
        self.execute = CUDAGraphStep(self.step, recorder, self.watch)

    def train(self, images: Tensor, labels: Tensor, progress: float = 0.0) -> Tensor:
        """Make one step, and return the detached task loss."""
        result = self.execute(TrainingBatch(images, labels), progress)
        self.update()
        return result.task_loss

    def update(self) -> None:
        """Make the optimizer's step, and clear the gradients."""
        if self.precision.scaler is None:
            self.optimizer.step()
        else:
            self.precision.scaler.step(self.optimizer)
            self.precision.scaler.update()
        self.optimizer.zero_grad()

    def weights(self) -> Tensor:
        """All trained parameters in one vector."""
        return torch.cat([weight.detach().flatten() for weight in self.parameters])


@contextmanager
def new_work(pair: str, method: str, precision: str, setting: Setting) -> Iterator[Work]:
    """A `Work`; within the block TF32 is allowed only in the precision `tf32`."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with watch_convergence(setting.device) as watch:
            yield Work(pair, method, precision, setting, watch)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def available_pairs() -> tuple[str, ...]:
    """The paper's pairs, and resnet50 with resnet18 if torchvision or timm is installed."""
    return (*PAPER, "resnet") if _library() else PAPER


def _library() -> str | None:
    return next((name for name in ("torchvision", "timm") if importlib.util.find_spec(name)), None)


def _networks(pair: str, small: bool) -> tuple[nn.Module, nn.Module]:
    if pair in PAPER:
        width = 0.05 if small else 1.0
        names = f"{pair}_teacher", f"{pair}_student"
        return tuple(build_network(name, CLASSES, width) for name in names)  # type: ignore[return-value]
    names = f"{_library()}:resnet50", f"{_library()}:resnet18"
    return tuple(build_network(name, CLASSES) for name in names)  # type: ignore[return-value]
