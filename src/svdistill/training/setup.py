"""Everything that a run needs, made from its configuration and checked before any writing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn

from svdistill.common import (
    ArgumentError,
    TrainingError,
    as_logits,
    launched_size,
    require_choice,
)
from svdistill.config import PRETRAINED, CacheConfig, DistillConfig, TrainConfig
from svdistill.data import Batch, ImageData
from svdistill.distillation import Distiller
from svdistill.losses import Knowledge, SumLoss, TransferLoss, added_to_task, build_loss, loss_specs
from svdistill.networks import build_network, pretrained_classes
from svdistill.parallel import TIMEOUT, require_launched
from svdistill.training.progress import Reporter
from svdistill.training.teacher import fill_network

if TYPE_CHECKING:
    from accelerate import Accelerator


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) for one purpose at one place of a run.

    A resumed run asks for the seeds of the next epoch and needs no generator's state.

    Args:
        parts: e.g. the run's seed, a purpose and an epoch.

    Example:
        >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3) != derive_seed(0, "order", 4)
        True
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


VARIABLE: Final = "CUBLAS_WORKSPACE_CONFIG"

WORKSPACES: Final = (":4096:8", ":16:8")


def require_workspace(device: torch.device) -> None:
    """Raise `ArgumentError` where cuBLAS was left free to add up in any order.

    It reads its setting once, before any code of ours may have run.
    """
    if device.type == "cuda" and os.environ.get(VARIABLE) not in WORKSPACES:
        raise ArgumentError(
            "deterministic",
            expected=f"{VARIABLE} to be {' or '.join(WORKSPACES)}, for a GPU",
            got=repr(os.environ.get(VARIABLE, "")),
            remedy=f"start it as `{VARIABLE}={WORKSPACES[0]} svdistill ...`",
        )


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch run deterministic algorithms only; afterwards it does again as it did before.

    Args:
        wanted: where not, nothing is changed.

    Raises:
        TrainingError: an operation has none.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(
            "deterministic",
            expected="operations that have a deterministic form on this device",
            got=" ".join(str(error).split())[:150],
            remedy="leave --deterministic out, or use another loss or network",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = before[1:]


PRECISIONS = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


class Losses(NamedTuple):
    """What a configuration transfers: the loss that is clipped, and one that is not, if any."""

    clipped: TransferLoss
    unclipped: TransferLoss | None = None


def build_losses(config: DistillConfig | CacheConfig, given: TransferLoss | None = None) -> Losses:
    """The transfer losses that a configuration names; a soft target that is added is not clipped.

    Args:
        config: the names, and the losses' options.
        given: the loss itself, where a name would not do.

    Example:
        >>> build_losses(DistillConfig(output="runs/a", loss="fsp+soft_target")).unclipped
        SumLoss(
          weights=(1.0,)
          (losses): ModuleList(
            (0): SoftTargetLoss(temperature=4.0)
          )
        )
    """
    if given is not None:
        return Losses(given)
    specs = loss_specs(config.loss)
    of_task = added_to_task(specs)
    clipped = [build_loss(spec, config) for spec in specs if spec not in of_task]
    transfer = clipped[0] if len(clipped) == 1 else SumLoss(clipped, [1.0] * len(clipped))
    if not of_task:
        return Losses(transfer)
    weights = [getattr(config, spec.weight) if spec.weight else 1.0 for spec in of_task]
    return Losses(transfer, SumLoss([build_loss(spec, config) for spec in of_task], weights))


def whole_loss(
    config: DistillConfig | CacheConfig, given: TransferLoss | None = None
) -> TransferLoss:
    """One loss that reads all that a configuration's losses read, as a knowledge store keeps it.

    Example:
        >>> whole_loss(DistillConfig(output="runs/a", loss="fsp"))
        FSPLoss()
    """
    losses = [loss for loss in build_losses(config, given) if loss is not None]
    return losses[0] if len(losses) == 1 else SumLoss(losses, [1.0] * len(losses))


def move_data(data: ImageData, device: torch.device) -> ImageData:
    """The same images on a device, where they are resident."""
    return replace(
        data,
        train=data.train.to(device),
        test=data.test.to(device),
        dev=None if data.dev is None else data.dev.to(device),
    )


def new_student(
    config: TrainConfig,
    data: ImageData,
    device: torch.device,
    reporter: Reporter | None = None,
    given: nn.Module | None = None,
) -> nn.Module:
    """The network to train, with the weights that it starts from.

    Args:
        config: the network's name, its initial weights, and the seed of random ones.
        data: whose classes and size of images it is built for.
        device: where it goes.
        reporter: is told of a head that starts anew.
        given: the network itself, where a name would not do.

    Raises:
        SVDistillError: a name, package or weights that are not there, or of another network.
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
    """Move a network to its device, laid out channels last: convolutions are fastest so."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def try_once(
    distiller: Distiller, images: Tensor, labels: Tensor, knowledge: Knowledge | None = None
) -> None:
    """Images through everything: whatever does not fit shows before anything is written."""
    distiller.eval()
    distiller(images, knowledge=knowledge, labels=labels)


def two_images(data: ImageData, device: torch.device) -> tuple[Batch, Tensor]:
    """The first training images, and as a network sees them."""
    batch = data.train.first(2, device)
    return batch, data.augmentation("none").normalise(batch.images)


@torch.no_grad()
def require_classes(argument: str, network: nn.Module, images: Tensor, num_classes: int) -> None:
    """Raise `ArgumentError` unless a network takes the images, and gives a logit for each class.

    Args:
        argument: what the message names.
        network: comes back in the mode that it had.
        images: normalised, [B, 3, H, W].
        num_classes: of the data.
    """
    was_training = network.training
    try:
        logits = as_logits(network.eval()(images))
    except ArgumentError:
        raise
    except Exception as error:  # networks from anywhere
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
    """Device, precision and TensorBoard for one run; of a launcher's processes also the group."""
    # Here, not above: networks and their weights are opened without it.
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
        # The batches are the same, however many share them: so is the number of schedule steps.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[group] if launched_size() > 1 else [],
    )
