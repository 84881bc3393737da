"""Build and check the losses, networks and device of a run, before any file is written."""

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
from svdistill.store import KnowledgeStore
from svdistill.taps import trial_run
from svdistill.training.progress import Reporter
from svdistill.training.reproducibility import derive_seed, require_workspace
from svdistill.training.stopping import StopRequests
from svdistill.training.teacher import Teacher, fill_network, load_teacher, of_other_classes

if TYPE_CHECKING:
    from accelerate import Accelerator


# Accelerate's name for each precision; "auto" is float32 until both precisions are timed.
PRECISIONS: Final = {"float32": "no", "auto": "no", "bf16": "bf16", "fp16": "fp16"}


class Losses(NamedTuple):
    """The losses that transfer knowledge, by whether their gradient is clipped.

    Attributes:
        clipped: the transfer loss, whose gradient is clipped.
        unclipped: a loss that counts as part of the task, such as soft targets; None if there is
            none.
    """

    clipped: TransferLoss
    unclipped: TransferLoss | None = None

    @property
    def whole(self) -> TransferLoss:
        """The sum of both losses; a knowledge store holds what it reads from the teacher."""
        return (
            self.clipped if self.unclipped is None else _plain_sum([self.clipped, self.unclipped])
        )


def build_losses(config: TeacherConfig, given: TransferLoss | None = None) -> Losses:
    """Build the losses that a configuration names; soft targets added to others are not clipped.

    Args:
        config: names and options of the losses.
        given: a loss to use instead of the named ones.

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
    """Raise `ArgumentError` if images are mixed (mixup, CutMix) but the loss reads their labels."""
    if config.mix is not None and losses.whole.needs_labels:
        raise ArgumentError(
            "mix",
            expected="nothing beside a loss that reads labels, since a mixed image has two",
            got=f"{config.mix!r} with {config.loss!r}",
            remedy="leave out --mix, or choose a loss that reads none, such as soft_target",
        )


def move_data(data: ImageData, device: torch.device) -> ImageData:
    """Move the images to a device, as far as the splits hold them in memory."""
    return replace(
        data,
        train=data.train.to(device),
        test=data.test.to(device),
        dev=None if data.dev is None else data.dev.to(device),
    )


@dataclass(frozen=True)
class TeacherSource:
    """Where the student's knowledge comes from, if it has a teacher.

    Attributes:
        network, store: the teacher network, or the knowledge store; at most one is not None.
        accuracy: test accuracy of the teacher, as recorded in the store.
        other_classes: how the teacher's classes differ from the data's; empty if they do not.
        fingerprint: digest of the teacher's weights, or of the store's knowledge.
    """

    network: nn.Module | None = None
    store: KnowledgeStore | None = None
    accuracy: float | None = None
    other_classes: str = ""
    fingerprint: str = ""


def new_teacher(
    config: TeacherConfig,
    data: ImageData,
    device: torch.device,
    *,
    needs_logits: bool,
    given: nn.Module | None = None,
) -> Teacher:
    """Load the teacher, or use the given one, move it to the device and try it on two images.

    Raises:
        SVDistillError: see `load_teacher`; or the network fails on the images, or has other
            classes although `needs_logits`.
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
    """Say how an output differs from logits [images, num_classes]; empty if it does not."""
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
    """Build the network to train, or use the given one; load initial weights, if configured.

    The reporter shows whether a classifier head starts with random weights.

    Raises:
        SVDistillError: the name is unknown, a package or weights file is missing, the weights
            belong to another network, or it has no layers that `dropout` could change.
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
    if config.dropout is not None:
        _set_dropout(network, config.dropout)
    place_network(network, device)
    return network


def _set_dropout(network: nn.Module, probability: float) -> None:
    """Give all dropout layers of a network this probability."""
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    if probability and not layers:
        raise ArgumentError(
            "dropout",
            expected="0 or nothing for a network without dropout layers",
            got=probability,
            remedy="leave it out, or add nn.Dropout to the network",
        )
    for layer in layers:
        layer.p = probability


def place_network(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, in channels-last memory format for fast convolutions."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def first_images(data: ImageData, count: int, device: torch.device) -> tuple[Batch, Tensor]:
    """Return a batch of the first training images, and these images normalised."""
    batch = data.train.first(count, device)
    return batch, data.augmentation("none").normalise(batch.images)


def require_classes(network: nn.Module, images: Tensor, num_classes: int) -> None:
    """Raise `ArgumentError` unless a student accepts the images and has a logit for each class."""
    logits = as_logits(try_network("network", network, images))
    if tuple(logits.shape) != (len(images), num_classes):
        raise ArgumentError(
            "network",
            expected=f"logits [images, {num_classes}], one per class of the data",
            got=tuple(logits.shape),
            remedy="use a network of the same classes",
        )


def try_network(argument: str, network: nn.Module, images: Tensor) -> Any:
    """Run a network in eval mode; raise `ArgumentError` if it fails on the images."""
    remedy = "give another --image_size, or another network"
    with trial_run(argument, network, images, remedy):
        return network(images)


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `"auto"` is CUDA if there is a GPU, else the CPU."""
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
    """Create the `Accelerator` of a run: device, precision, TensorBoard log and process group."""
    # Imported late, since commands that only load networks and weights do not need Accelerate.
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
    # Accelerate keeps one precision per process, but runs in one process may differ in precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = device.type == "cpu"
    group = InitProcessGroupKwargs("gloo" if on_cpu else "nccl", timeout=TIMEOUT)
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=PRECISIONS[config.precision],
        log_with="tensorboard",
        project_dir=config.output,
        # Batches are split, so that the number of steps does not depend on that of processes.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[group] if launched_size() > 1 else [],
    )


@dataclass(frozen=True)
class ViewSchedule:
    """Which view of each image, that is which random augmentation, an epoch or step shows.

    Attributes:
        seed: seed of the augmentation.
        count: number of different views of each image, shown in turn; 0 for a new view in every
            epoch.

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
        """Make the schedule that a configuration asks for."""
        seed = config.views_seed
        return cls(derive_seed(config.seed, "views") if seed is None else seed, config.views)

    def of_epoch(self, epoch: int) -> int:
        """The number of the view to show in an epoch; epochs are counted over all stages."""
        return epoch % self.count if self.count else epoch

    def of_step(self, epoch: int, step: int, steps: int) -> int:
        """The number of the view to show in a step, if an epoch shows images several times."""
        return self.of_epoch(epoch) if self.count else epoch * steps + step


@dataclass(frozen=True)
class RunContext:
    """Configuration, images and services that all parts of a run share.

    Attributes:
        config: the run's options, without empty ones.
        data: images to train and evaluate on.
        views: which random view of each image is shown in each epoch.
        run: directory of checkpoints, metrics and weights.
        accelerator: Accelerate's device, precision and trackers.
        reporter: shows progress.
        stops: stop signals received, checked between steps and between batches of an evaluation.
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
        """The device that this process trains on."""
        return self.accelerator.device
