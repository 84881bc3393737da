"""The commands as functions: train a network, distill a teacher into one, evaluate one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from svdistill.data import Augmentation, ImageData, load_images
from svdistill.distiller import Distiller
from svdistill.errors import ArgumentError, RunError, require_choice
from svdistill.losses import FSPLoss, SoftTargetLoss, SumLoss, SVDLoss, TransferLoss
from svdistill.networks import SeedNetwork, build_network, profile_network
from svdistill.taps import TapPairs
from svdistill.training.config import DistillConfig, TrainConfig, stored_values
from svdistill.training.loop import Loop, Stage
from svdistill.training.metrics import Evaluation, evaluate_network
from svdistill.training.progress import Reporter
from svdistill.training.run_directory import RunDirectory, RunSummary
from svdistill.training.seeding import derive_seed
from svdistill.training.step import DistillStep, TaskStep, TransferStep
from svdistill.training.weights import load_student, load_teacher, read_card, weights_file

PRECISIONS = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(config: TrainConfig, reporter: Reporter | None = None) -> RunSummary:
    """Train a network on labelled images, and leave a run directory.

    Args:
        config: what to train, on what, how, and where to.
        reporter: what a person sees; nothing by default.

    Returns:
        The run's summary, as in its `summary.json`.

    Raises:
        SVDistillError: a bad value, data set or run directory, or a loss that is not finite.
    """
    config.check()
    data = _load(config)
    accelerator = _accelerator(config)
    student = _student(config, data, accelerator.device)
    stages = [Stage("task", TaskStep(student, accelerator), config.epochs)]
    return _run(config, student, stages, data, accelerator, reporter or Reporter(), teacher=None)


def distill(config: DistillConfig, reporter: Reporter | None = None) -> RunSummary:
    """Train a student on labelled images and on its teacher's knowledge; leave a run directory.

    Args:
        config: teacher, student, loss and taps, and all that `train` takes.
        reporter: what a person sees; nothing by default.

    Returns:
        The run's summary, as in its `summary.json`.

    Raises:
        SVDistillError: a bad value, teacher, data set or run directory; taps or channels that do
            not fit; a loss that is not finite.
    """
    config.check()
    data = _load(config)
    accelerator = _accelerator(config)
    device = accelerator.device
    teacher = load_teacher(
        config.teacher,
        data.num_classes,
        network=config.teacher_network,
        width=config.teacher_width,
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    student = _student(config, data, device)
    taps = TapPairs(
        _taps("teacher_taps", teacher, config.teacher_taps),
        _taps("student_taps", student, config.student_taps),
    )
    distiller = Distiller(
        teacher,
        student,
        build_loss(config),
        taps=taps,
        clip=config.clip,
        weight_decay=config.weight_decay if config.optimizer == "sgd" else 0.0,
    ).to(device)
    _try_once(distiller, data, device)
    parts = (distiller, accelerator, config.task_weight, config.transfer_weight)
    if config.transfer_epochs:
        stages = [
            Stage("transfer", TransferStep(*parts), config.transfer_epochs),
            Stage("task", TaskStep(student, accelerator), config.epochs),
        ]
    else:
        stages = [Stage("both", DistillStep(*parts), config.epochs)]
    return _run(config, student, stages, data, accelerator, reporter or Reporter(), teacher)


def evaluate(path: str | Path, data: str | None = None, *, device: str = "auto") -> Evaluation:
    """Accuracy of a trained network on the test split of a data set.

    Images are resized and normalised as the network's own training images were.

    Args:
        path: a run directory, or a `.safetensors` file that a run wrote.
        data: where images come from, as in `load_images`; None for the data that the run directory
            was trained for, with the same selection of classes.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        `Evaluation(accuracy, loss, images)`.

    Raises:
        SVDistillError: bad weights or data, or classes that differ from those trained on.
    """
    network = load_student(path)
    card = read_card(weights_file(Path(path)))
    assert card is not None  # load_student has read it
    target = choose_device(device)
    if data is None:
        config = stored_values(RunDirectory(path).config)
        images = load_images(
            config["data"], image_size=card.image_size, classes_every=config["classes_every"]
        )
    else:
        images = load_images(data, image_size=card.image_size)
    if images.class_names != card.class_names:
        raise RunError(
            str(path),
            expected=f"a network of the data's {images.num_classes} classes",
            got=f"one of {len(card.class_names)} classes, or of others",
            remedy="evaluate on the data it was trained for",
        )
    return evaluate_network(
        network.to(target),
        images.test.to(target),
        Augmentation("none", images.image_shape[-1], card.mean, card.std),
        num_classes=images.num_classes,
        device=target,
    )


def build_loss(config: DistillConfig) -> TransferLoss:
    """The transfer loss that a configuration names.

    Example:
        >>> build_loss(DistillConfig(output="runs/a", loss="fsp"))
        FSPLoss()
    """
    soft = SoftTargetLoss(config.temperature)
    if config.loss == "soft_target":
        return soft
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
        return losses[name]
    return SumLoss([losses[name], soft], [1.0, config.soft_target_weight])


def _run(
    config: TrainConfig,
    student: nn.Module,
    stages: list[Stage],
    data: ImageData,
    accelerator: Accelerator,
    reporter: Reporter,
    teacher: nn.Module | None,
) -> RunSummary:
    """Everything that could be checked has been: open the run directory, train, summarise."""
    run = RunDirectory(config.output)
    run.open(config)
    data = _moved(data, accelerator.device)
    accelerator.init_trackers("tensorboard")
    loop = Loop(student, stages, data, config, run, accelerator, reporter)
    teacher_accuracy = loop.evaluate(data.test, teacher).accuracy if teacher is not None else None
    with reporter:
        if teacher_accuracy is not None:
            reporter.message(f"teacher: {teacher_accuracy:.2f} % on {len(data.test)} test images")
        place = loop.fit()
    accelerator.end_training()
    profile = profile_network(student, data.image_shape)
    distilled = isinstance(config, DistillConfig)
    summary = RunSummary(
        directory=str(run.path),
        kind="distill" if distilled else "train",
        network=config.network,
        width=config.width,
        loss=config.loss if isinstance(config, DistillConfig) else None,
        seed=config.seed,
        last_accuracy=place.last_accuracy,
        best_accuracy=place.best_accuracy,
        best_epoch=place.best_epoch,
        best_by="test" if data.dev is None else "dev",
        teacher_accuracy=teacher_accuracy,
        parameters=profile.parameters,
        flops=profile.flops,
        epochs=place.total,
        seconds=place.seconds,
    )
    run.finish(summary)
    return summary


def _load(config: TrainConfig) -> ImageData:
    return load_images(
        config.data,
        image_size=config.image_size,
        classes_every=config.classes_every,
        train_size=config.train_size,
        dev_fraction=config.dev_fraction,
        # The held-out images are the same for every seed of a run.
        seed=0,
    )


def _moved(data: ImageData, device: torch.device) -> ImageData:
    return replace(
        data,
        train=data.train.to(device),
        test=data.test.to(device),
        dev=None if data.dev is None else data.dev.to(device),
    )


def _student(config: TrainConfig, data: ImageData, device: torch.device) -> SeedNetwork:
    torch.manual_seed(derive_seed(config.seed, "weights"))
    network = build_network(config.network, data.num_classes, config.width)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _taps(argument: str, network: nn.Module, chosen: list[str]) -> tuple[str, ...]:
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
def _try_once(distiller: Distiller, data: ImageData, device: torch.device) -> None:
    """Two images through everything: whatever does not fit shows before anything is written."""
    batch = next(data.test.batches(2, device=device, order_seed=None))
    augmentation = Augmentation("none", data.image_shape[-1], data.mean, data.std)
    images = augmentation.normalise(batch.images)
    distiller.eval()
    logits = distiller.teacher(images)
    expected = (len(images), data.num_classes)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ArgumentError(
            "teacher",
            expected=f"logits [images, {data.num_classes}], one per class of the data",
            got=got,
            remedy="use a teacher of the same classes",
        )
    distiller(images)


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


def _accelerator(config: TrainConfig) -> Accelerator:
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
