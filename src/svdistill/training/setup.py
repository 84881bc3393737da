"""Losses, networks and device of a run, checked before anything is written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn

from svdistill.common import ArgumentError, as_logits, launched_size, require_choice
from svdistill.config import PRETRAINED, TeacherConfig, TrainConfig
from svdistill.data import Batch, ImageData
from svdistill.distillation import Distiller
from svdistill.losses import Knowledge, SumLoss, TransferLoss, added_to_task, build_loss, loss_specs
from svdistill.networks import build_network, is_zoo, pretrained_classes
from svdistill.parallel import TIMEOUT, require_launched
from svdistill.training.progress import Reporter
from svdistill.training.reproducibility import derive_seed, require_workspace
from svdistill.training.teacher import (
    data_options,
    fill_network,
    load_library_teacher,
    load_teacher,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


# By precision, as Accelerate names it; "auto" is float32 until it has been measured.
PRECISIONS: Final = {"float32": "no", "auto": "no", "bf16": "bf16", "fp16": "fp16"}


class Losses(NamedTuple):
    """The losses to transfer: one that is clipped, and one that is not, if any."""

    clipped: TransferLoss
    unclipped: TransferLoss | None = None


def build_losses(config: TeacherConfig, given: TransferLoss | None = None) -> Losses:
    """Build the losses that a configuration names; an added soft target is not clipped.

    Args:
        config: names and options of the losses.
        given: the loss itself, in place of a name.

    Example:
        >>> build_losses(TeacherConfig(output="runs/a", loss="fsp+soft_target")).unclipped
        SumLoss(
          weights=(0.9,)
          (losses): ModuleList(
            (0): SoftTargetLoss(temperature=4.0)
          )
        )
    """
    if given is not None:
        return Losses(given)
    specs = loss_specs(config.loss)
    config, of_task = config.filled(), added_to_task(specs)
    clipped = [build_loss(spec, config) for spec in specs if spec not in of_task]
    transfer = clipped[0] if len(clipped) == 1 else SumLoss(clipped, [1.0] * len(clipped))
    if not of_task:
        return Losses(transfer)
    weights = [getattr(config, spec.weight) if spec.weight else 1.0 for spec in of_task]
    return Losses(transfer, SumLoss([build_loss(spec, config) for spec in of_task], weights))


def whole_loss(config: TeacherConfig, given: TransferLoss | None = None) -> TransferLoss:
    """The sum of all losses of a configuration: a knowledge store holds what it reads.

    Example:
        >>> whole_loss(TeacherConfig(output="runs/a", loss="fsp"))
        FSPLoss()
    """
    losses = [loss for loss in build_losses(config, given) if loss is not None]
    return losses[0] if len(losses) == 1 else SumLoss(losses, [1.0] * len(losses))


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
    given: nn.Module | None = None,
) -> nn.Module:
    """Load the teacher, and check that it takes the data's images and has their classes.

    Args:
        config: names the teacher.
        data: the images, with their classes and size.
        device: the device of the teacher.
        given: the network itself, in place of a name.

    Raises:
        SVDistillError: see `load_teacher` and `require_classes`.
    """
    teacher, classes, size = given, data.num_classes, data.image_shape[-1]
    if teacher is None and is_zoo(config.teacher):
        weights, options = config.teacher_weights, data_options(config)
        teacher = load_library_teacher(config.teacher, classes, weights, size, options)
    elif teacher is None:
        network, width = config.teacher_network, config.teacher_width
        teacher = load_teacher(
            config.teacher, classes, network=network, width=width, image_size=size
        )
    place_network(teacher, device)
    _, images = first_images(data, 2, device)
    require_classes("teacher", teacher, images, data.num_classes)
    return teacher


def new_student(
    config: TrainConfig,
    data: ImageData,
    device: torch.device,
    reporter: Reporter | None = None,
    given: nn.Module | None = None,
) -> nn.Module:
    """Build the network to train, with its initial weights.

    Args:
        config: the network's name, its initial weights, and the seed of random ones.
        data: determines the network's classes and image size.
        device: the device of the network.
        reporter: shows which head starts with random weights.
        given: the network itself, in place of a name.

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


@torch.no_grad()
def try_once(
    distiller: Distiller, images: Tensor, labels: Tensor, knowledge: Knowledge | None = None
) -> None:
    """Run two images through networks, adapters and losses, so that errors show early."""
    distiller.eval()
    distiller(images, knowledge=knowledge, labels=labels)


def first_images(data: ImageData, count: int, device: torch.device) -> tuple[Batch, Tensor]:
    """The first training images, and the same normalised."""
    batch = data.train.first(count, device)
    return batch, data.augmentation("none").normalise(batch.images)


@torch.no_grad()
def require_classes(argument: str, network: nn.Module, images: Tensor, num_classes: int) -> None:
    """Raise `ArgumentError` unless a network takes the images and has a logit for each class.

    Args:
        argument: name in the message.
        network: its mode does not change.
        images: normalised, [B, 3, H, W].
        num_classes: of the data.
    """
    was_training = network.training
    try:
        logits = as_logits(network.eval()(images))
    except ArgumentError:
        raise
    except Exception as error:  # any network may raise anything
        raise ArgumentError(
            argument,
            expected=f"a network that takes images {'x'.join(map(str, images.shape[2:]))}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy="give another --image_size, or another network",
        ) from error
    finally:
        network.train(was_training)
    if tuple(logits.shape) != (len(images), num_classes):
        raise ArgumentError(
            argument,
            expected=f"logits [images, {num_classes}], one per class of the data",
            got=tuple(logits.shape),
            remedy="use a network of the same classes",
        )


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
