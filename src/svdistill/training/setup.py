"""Losses, networks and device of a run, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, as_logits, launched_size, require_choice
from svdistill.config import PRETRAINED, DistillConfig, TeacherConfig, TrainConfig
from svdistill.data import Batch, ImageData
from svdistill.losses import SumLoss, TransferLoss, added_to_task, build_loss, loss_specs
from svdistill.networks import build_network, pretrained_classes
from svdistill.parallel import TIMEOUT, require_launched
from svdistill.runs import RunDirectory
from svdistill.taps import trial_run
from svdistill.training.progress import Reporter
from svdistill.training.reproducibility import derive_seed, require_workspace
from svdistill.training.stopping import StopRequests
from svdistill.training.teacher import Teacher, fill_network, load_teacher, of_other_classes

if TYPE_CHECKING:
    from accelerate import Accelerator


# By precision, as Accelerate names it; "auto" is float32 until it has been measured.
PRECISIONS: Final = {"float32": "no", "auto": "no", "bf16": "bf16", "fp16": "fp16"}


class Losses(NamedTuple):
    """The losses to transfer: one that is clipped, and one that is not, if any."""

    clipped: TransferLoss
    unclipped: TransferLoss | None = None

    @property
    def whole(self) -> TransferLoss:
        """Their sum: a knowledge store holds what it reads."""
        return (
            self.clipped if self.unclipped is None else _plain_sum([self.clipped, self.unclipped])
        )


def build_losses(config: TeacherConfig, given: TransferLoss | None = None) -> Losses:
    """Build the losses that a configuration names; an added soft target is not clipped.

    Args:
        config: names and options of the losses.
        given: the loss itself, in place of a name.

    Example:
        >>> losses = build_losses(TeacherConfig(output="runs/a", loss="fsp+soft_target"))
        >>> losses.clipped, losses.unclipped
        (FSPLoss(), SumLoss(
          weights=(3.0,)
          (losses): ModuleList(
            (0): SoftTargetLoss(temperature=4.0)
          )
        ))
    """
    if given is not None:
        return Losses(given)
    specs = loss_specs(config.loss)
    config, of_task = config.filled(), added_to_task(specs)
    clipped = [build_loss(spec, config) for spec in specs if spec not in of_task]
    transfer = clipped[0] if len(clipped) == 1 else _plain_sum(clipped)
    if not of_task:
        return Losses(transfer)
    weights = [getattr(config, spec.weight) if spec.weight else 1.0 for spec in of_task]
    return Losses(transfer, SumLoss([build_loss(spec, config) for spec in of_task], weights))


def _plain_sum(losses: list[TransferLoss]) -> SumLoss:
    return SumLoss(losses, [1.0] * len(losses))


def require_mixable(config: DistillConfig, losses: Losses) -> None:
    """Raise `ArgumentError` for a loss that reads one label for each image, beside mixed images."""
    if config.mix is not None and losses.whole.needs_labels:
        raise ArgumentError(
            "mix",
            expected="nothing beside a loss that reads labels, since a mixed image has two",
            got=f"{config.mix!r} with {config.loss!r}",
            remedy="leave out --mix, or choose a loss that reads none, such as soft_target",
        )


def move_data(data: ImageData, device: torch.device) -> ImageData:
    """Move images that are resident in memory to a device."""
    return replace(
        data,
        train=data.train.to(device),
        test=data.test.to(device),
        dev=None if data.dev is None else data.dev.to(device),
    )


def new_teacher(
    config: TeacherConfig,
    data: ImageData,
    device: torch.device,
    *,
    needs_logits: bool,
    given: nn.Module | None = None,
) -> Teacher:
    """Load the teacher, or take the given one; it takes the images.

    Raises:
        SVDistillError: see `load_teacher`; a network that does not take the images; or one of
            other classes, with a loss that needs its logits.
    """
    classes = data.num_classes
    if given is not None:
        teacher = Teacher(given)
    else:
        teacher = load_teacher(
            config.teacher,
            data.class_names,
            network=config.teacher_network,
            width=config.teacher_width,
            weights=config.teacher_weights,
            image_size=data.image_shape[-1],
        )
    place_network(teacher.network, device)
    _, images = first_images(data, 2, device)
    output = try_network("teacher", teacher.network, images)
    if not teacher.other_classes and (difference := _unlike_logits(output, len(images), classes)):
        teacher = replace(teacher, other_classes=difference)
    if teacher.other_classes and needs_logits:
        raise of_other_classes(config, classes, teacher.other_classes)
    return teacher


def _unlike_logits(output: object, images: int, num_classes: int) -> str:
    """How a network's output differs from a logit for each image and class."""
    try:
        shape = tuple(as_logits(output).shape)
    except ArgumentError as error:
        return f"no logits: {str(error).partition(', got ')[2].partition(';')[0]}"
    wanted = (images, num_classes)
    return "" if shape == wanted else f"logits {shape} in place of {wanted} for {images} images"


def new_student(
    config: TrainConfig,
    data: ImageData,
    device: torch.device,
    reporter: Reporter | None = None,
    given: nn.Module | None = None,
) -> nn.Module:
    """Build the network to train, or take the given one, with its initial weights.

    The reporter shows which head starts with random weights.

    Raises:
        SVDistillError: a missing name, package or weights file, or weights of another network.
    """
    torch.manual_seed(derive_seed(config.seed, "weights"))
    reporter, classes = reporter or Reporter(), data.num_classes
    pretrained = config.weights == PRETRAINED
    size = data.image_shape[-1]
    network = given
    if network is None:
        network = build_network(
            config.network, classes, config.width, pretrained=pretrained, image_size=size
        )
    if pretrained and (published := pretrained_classes(config.network)) != classes:
        reporter.message(
            f"{config.network}: its head for {published} classes is left out, one for {classes} "
            "starts anew"
        )
    elif config.weights and not pretrained:
        head = fill_network(network, config.weights, classes)
        if head:
            reporter.message(f"{config.weights}: {', '.join(head)} of other classes start anew")
    place_network(network, device)
    return network


def place_network(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, in channels-last memory format, which is fastest."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def first_images(data: ImageData, count: int, device: torch.device) -> tuple[Batch, Tensor]:
    """The first training images, and the same normalised."""
    batch = data.train.first(count, device)
    return batch, data.augmentation("none").normalise(batch.images)


def require_classes(network: nn.Module, images: Tensor, num_classes: int) -> None:
    """Raise `ArgumentError` unless a student takes the images and has a logit for each class."""
    logits = as_logits(try_network("network", network, images))
    if tuple(logits.shape) != (len(images), num_classes):
        raise ArgumentError(
            "network",
            expected=f"logits [images, {num_classes}], one per class of the data",
            got=tuple(logits.shape),
            remedy="use a network of the same classes",
        )


def try_network(argument: str, network: nn.Module, images: Tensor) -> Any:
    """The output of a network in eval mode; `ArgumentError` if it does not take the images."""
    remedy = "give another --image_size, or another network"
    with trial_run(argument, network, images, remedy):
        return network(images)


def choose_device(name: str) -> torch.device:
    """The device that a name means; `"auto"` prefers CUDA."""
    require_choice("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(
            "device",
            expected="a device of this machine",
            got="'cuda', but torch finds no GPU",
            remedy="use --device cpu, or install a CUDA build of torch",
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def new_accelerator(config: TrainConfig) -> Accelerator:
    """Device, precision and TensorBoard of one run, and the group of a launcher's processes."""
    # Imported late, since loading networks and weights does not need it.
    from accelerate import Accelerator, DataLoaderConfiguration, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    require_launched()
    device = choose_device(config.device)
    if config.precision == "fp16" and device.type == "cpu":
        raise ArgumentError(
            "precision",
            expected="'float32' or 'bf16' on a CPU",
            got="'fp16'",
            remedy="use --precision bf16, or a GPU",
        )
    if config.deterministic:
        require_workspace(device)
    # Accelerate keeps one precision per process; several runs in one process may differ.
    AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = device.type == "cpu"
    group = InitProcessGroupKwargs("gloo" if on_cpu else "nccl", timeout=TIMEOUT)
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=PRECISIONS[config.precision],
        log_with="tensorboard",
        project_dir=config.output,
        # The number of batches, and so of schedule steps, does not depend on the processes.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[group] if launched_size() > 1 else [],
    )


@dataclass(frozen=True)
class ViewSchedule:
    """The random view of each image that an epoch or step shows.

    Attributes:
        seed: from which views are drawn.
        count: different views of each image; 0 for a new one in every epoch.

    Example:
        >>> [ViewSchedule(seed=0, count=2).of_epoch(epoch) for epoch in range(5)]
        [0, 1, 0, 1, 0]
        >>> ViewSchedule(seed=0).of_step(epoch=2, step=3, steps=10)
        23
    """

    seed: int
    count: int = 0

    @classmethod
    def from_config(cls, config: TrainConfig) -> ViewSchedule:
        """The views that a configuration asks for."""
        seed = config.views_seed
        return cls(derive_seed(config.seed, "views") if seed is None else seed, config.views)

    def of_epoch(self, epoch: int) -> int:
        """Number of the view in an epoch, counted over all stages."""
        return epoch % self.count if self.count else epoch

    def of_step(self, epoch: int, step: int, steps: int) -> int:
        """Number of the view in a step of an epoch that shows images several times."""
        return self.of_epoch(epoch) if self.count else epoch * steps + step


@dataclass(frozen=True)
class RunContext:
    """Configuration, images and services that all parts of a run share.

    Attributes:
        config: what the user asked for.
        data: images to train and evaluate on.
        views: which views of the images are trained on.
        run: directory of checkpoints, metrics and weights.
        accelerator: device, precision and trackers.
        reporter: shows progress.
        stops: stop signals, polled between steps and between batches of an evaluation.
    """

    config: TrainConfig
    data: ImageData
    views: ViewSchedule
    run: RunDirectory
    accelerator: Accelerator
    reporter: Reporter
    stops: StopRequests

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return self.accelerator.device
