"""The parts of a run, made from its configuration and checked before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from svdistill.data import Augmentation, Batch, ImageData, load_images
from svdistill.distiller import Distiller
from svdistill.errors import ArgumentError, require_choice
from svdistill.knowledge_store import KnowledgeStore
from svdistill.losses import FSPLoss, SoftTargetLoss, SumLoss, SVDLoss, TransferLoss
from svdistill.networks import SeedNetwork, build_network
from svdistill.training.cache_config import CacheConfig
from svdistill.training.config import DistillConfig, TrainConfig
from svdistill.training.seeding import derive_seed
from svdistill.training.weights import read_card, weights_file

PRECISIONS = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


class Losses(NamedTuple):
    """What a configuration transfers: the loss that is clipped, and one that is not, if any."""

    clipped: TransferLoss
    unclipped: TransferLoss | None = None


def build_losses(config: DistillConfig | CacheConfig) -> Losses:
    """The transfer losses that a configuration names; a soft target that is added is not clipped.

    Example:
        >>> build_losses(DistillConfig(output="runs/a", loss="fsp+soft_target")).unclipped
        SumLoss(
          weights=(1.0,)
          (losses): ModuleList(
            (0): SoftTargetLoss(temperature=4.0)
          )
        )
    """
    soft = SoftTargetLoss(config.temperature)
    if config.loss == "soft_target":
        return Losses(soft)
    svd = SVDLoss(config.num_vectors, config.beta, config.gradient)
    losses: dict[str, TransferLoss] = {"svd": svd, "fsp": FSPLoss()}
    name, _, added = config.loss.partition("+")
    if name not in losses or added not in ("", "soft_target"):
        raise ArgumentError(
            "loss",
            expected="'svd', 'fsp', 'soft_target', 'svd+soft_target' or 'fsp+soft_target'",
            got=repr(config.loss),
            remedy="choose one of these",
        )
    if not added:
        return Losses(losses[name])
    return Losses(losses[name], SumLoss([soft], [config.soft_target_weight]))


def whole_loss(config: DistillConfig | CacheConfig) -> TransferLoss:
    """One loss that reads all that a configuration's losses read, as a knowledge store keeps it.

    Example:
        >>> whole_loss(DistillConfig(output="runs/a", loss="fsp"))
        FSPLoss()
    """
    losses = [loss for loss in build_losses(config) if loss is not None]
    return losses[0] if len(losses) == 1 else SumLoss(losses, [1.0] * len(losses))


def load_data(config: TrainConfig | CacheConfig) -> ImageData:
    """The images that a configuration names."""
    return load_images(
        config.data,
        image_size=config.image_size,
        classes_every=config.classes_every,
        classes=config.classes,
        train_size=config.train_size,
        dev_fraction=config.dev_fraction,
        memory_limit_gb=config.memory_limit_gb,
        # The held-out images are the same for every seed of a run.
        seed=0,
    )


def as_taught(data: ImageData, teacher: str) -> ImageData:
    """The same images, normalised as those were that a teacher of ours was trained on.

    A student of few images has other statistics; its teacher must see what it knows.
    """
    path = Path(teacher)
    card = read_card(weights_file(path)) if path.exists() else None
    return data if card is None else replace(data, mean=card.mean, std=card.std)


def move_data(data: ImageData, device: torch.device) -> ImageData:
    """The same images on a device, where they are resident."""
    return replace(
        data,
        train=data.train.to(device),
        test=data.test.to(device),
        dev=None if data.dev is None else data.dev.to(device),
    )


def new_student(config: TrainConfig, data: ImageData, device: torch.device) -> SeedNetwork:
    """The network to train, its weights drawn from the run's seed."""
    torch.manual_seed(derive_seed(config.seed, "weights"))
    network = build_network(config.network, data.num_classes, config.width)
    place_network(network, device)
    return network


def place_network(network: nn.Module, device: torch.device) -> None:
    """Move a network to its device, laid out channels last: convolutions are fastest so."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def tap_paths(argument: str, network: nn.Module, chosen: list[str]) -> tuple[str, ...]:
    """The taps that were chosen, or those that a network of the seed names."""
    if chosen:
        return tuple(chosen)
    if isinstance(network, SeedNetwork):
        return network.tap_paths
    raise ArgumentError(
        argument,
        expected="module paths, since the network is none of ours",
        got="nothing",
        remedy=f"give --{argument}, in the order of the data's flow",
    )


@torch.no_grad()
def try_once(
    distiller: Distiller, data: ImageData, device: torch.device, store: KnowledgeStore | None = None
) -> None:
    """Two images through everything: whatever does not fit shows before anything is written."""
    distiller.eval()
    batch, images = two_images(data, device)
    if store is None:
        assert distiller.teacher is not None
        require_classes(distiller.teacher, images, data)
        distiller(images)
    else:
        distiller(images, store.read(batch.indices, 0, device))


def two_images(data: ImageData, device: torch.device) -> tuple[Batch, Tensor]:
    """The first training images, and as a network sees them."""
    batch = next(data.train.part(0, 2).batches(2, device=device, order_seed=None))
    augmentation = Augmentation("none", data.image_shape[-1], data.mean, data.std)
    return batch, augmentation.normalise(batch.images)


def require_classes(teacher: nn.Module, images: Tensor, data: ImageData) -> None:
    """Raise `ArgumentError` unless the teacher gives a logit for each class of the data."""
    logits = teacher(images)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (len(images), data.num_classes):
        raise ArgumentError(
            "teacher",
            expected=f"logits [images, {data.num_classes}], one per class of the data",
            got=tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__,
            remedy="use a teacher of the same classes",
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
    """Device, precision and TensorBoard for one run."""
    device = choose_device(config.device)
    if config.precision == "fp16" and device.type == "cpu":
        raise ArgumentError(
            "precision",
            expected="'float32' or 'bf16' on a CPU",
            got="'fp16'",
            remedy="use --precision bf16, or a GPU",
        )
    # Accelerate keeps one precision per process; several runs in one process may differ.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=PRECISIONS[config.precision],
        log_with="tensorboard",
        project_dir=config.output,
    )
    if accelerator.num_processes > 1:
        raise ArgumentError(
            "num_processes",
            expected="1",
            got=accelerator.num_processes,
            remedy="launch one process; data parallelism is not supported yet",
        )
    return accelerator
