"""The options of `svdistill train` and `svdistill distill`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from svdistill.common import ArgumentError, require_count, require_positive
from svdistill.config.data import OBJECT, DataConfig
from svdistill.config.teacher import TeacherConfig
from svdistill.losses import require_whole_batches
from svdistill.networks import is_zoo, require_network, require_width

# Stands for a library's published weights, instead of a file.
PRETRAINED: Final = "pretrained"


@dataclass(kw_only=True)
class TrainConfig(DataConfig):
    """Train a network on labelled images.

    Args:
        network: Network to train: a name that `svdistill info` lists, `timm:NAME`,
            `torchvision:NAME`, `hf:NAME_OR_FOLDER`, or `module:attr` of your own code.
        weights: What the network starts from: `pretrained` for a library's published weights, or a
            file, .safetensors or tensors of torch.save. Empty for random weights.
        width: Factor on all channel counts of one of the paper's networks.
        views: Different random views of each image; 0 for a new one in every epoch.
        views_seed: Seed of the views; empty for the run's own.
        epochs: Passes over the training images.
        batch_size: Images in a step, of all processes together.
        accumulate: Parts in which each batch goes through the networks, one after the other, for
            less memory. The gradients are the whole batch's, but for the statistics of batch norm
            and the draws of dropout, which see a part.
        optimizer: `sgd` (Nesterov momentum 0.9) or `adamw`.
        learning_rate: Its highest value.
        weight_decay: Factor on the weights in their gradient (`sgd`), or decoupled (`adamw`).
        schedule: `paper` (x0.1 at half the steps, x0.01 at 3/4), `one_cycle`, `constant`.
        max_grad_norm: Bound on the norm of the whole gradient; empty for none.
        precision: `float32`, `bf16`, or `fp16` (CUDA only) by autocast. `auto` times a few steps in
            float32 and in bf16, and takes bf16 if it saves 10 % or more.
        device: `auto`, `cpu` or `cuda`.
        capture: On a GPU, `auto` records each step as a CUDA graph and replays it; `off` does not.
        deterministic: Use deterministic algorithms only, so that equal runs on one machine are
            equal bit by bit on a GPU too; slower, and refused where an operation has none.
        seed: Of initial weights, order, augmentation and dropout.
        checkpoint_minutes: Longest time between two checkpoints within an epoch; 0 saves at the
            ends of epochs only.
        resume: Continue the run in `output` from its last checkpoint.
    """

    network: str = "vgg_student"
    weights: str = ""
    width: float = 1.0
    views: int = 0
    views_seed: int | None = None
    epochs: int = 200
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    schedule: Literal["paper", "one_cycle", "constant"] = "paper"
    max_grad_norm: float | None = None
    precision: Literal["float32", "bf16", "fp16", "auto"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    capture: Literal["auto", "off"] = "auto"
    deterministic: bool = False
    seed: int = 0
    checkpoint_minutes: float = 10.0
    resume: bool = False

    def check(self) -> None:
        """Raise `ArgumentError` for the first invalid value."""
        super().check()
        self._check_network()
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("views", 0)):
            require_count(name, getattr(self, name), least)
        if self.views_seed is not None:
            require_count("views_seed", self.views_seed, 0)
        self._check_batches()
        require_positive("learning_rate", self.learning_rate)
        if self.max_grad_norm is not None:
            require_positive("max_grad_norm", self.max_grad_norm)
        if not self.weight_decay >= 0:
            raise ArgumentError(
                "weight_decay",
                expected="0 or more",
                got=self.weight_decay,
                remedy="give 0 for none",
            )
        if not 0 <= self.checkpoint_minutes < float("inf"):
            raise ArgumentError(
                "checkpoint_minutes",
                expected="0 or more",
                got=self.checkpoint_minutes,
                remedy="give 0 to save at the ends of epochs only",
            )

    def _check_network(self) -> None:
        if self.network != OBJECT:
            require_network("network", self.network)
        if self.weights == PRETRAINED and not is_zoo(self.network):
            raise ArgumentError(
                "weights",
                expected="a weights file for a network without published weights",
                got=f"'pretrained' for {self.network!r}",
                remedy="give a file, or a network timm:NAME, torchvision:NAME or hf:NAME",
            )
        require_width(self.network, self.width)

    def _check_batches(self) -> None:
        require_count("accumulate", self.accumulate)
        if self.accumulate > self.batch_size:
            raise ArgumentError(
                "accumulate",
                expected=f"at most {self.batch_size}, the images in a step",
                got=self.accumulate,
                remedy="give fewer parts, or a larger batch_size",
            )
        if self.unlabelled and not isinstance(self, TeacherConfig):
            raise ArgumentError(
                "unlabelled",
                expected="nothing where there is no teacher to learn from without labels",
                got=repr(self.unlabelled),
                remedy="leave it out, or distill a teacher",
            )
        if self.unlabelled:
            require_count("batch_size", self.batch_size, 2)  # half labelled, half unlabelled


@dataclass(kw_only=True)
class DistillConfig(TeacherConfig, TrainConfig):
    """Train a student network on labelled images and on what its teacher knows.

    Args:
        knowledge: A knowledge store made by `svdistill cache`, instead of a teacher.
        teacher_precision: Of the teacher's forward pass; empty for the option of the student, where
            `auto` is measured for each of them alone.
        student_taps: Module paths of the student's taps, as many as the teacher's. If empty, chosen
            like them.
        clip: Bound on the transfer gradient against the task's: `amortised` with one scale for all,
            measured in some steps only, for little more than the price of one gradient; `global`,
            which measures it in every step; per tensor `norm` (the paper's authors' code) or
            `poster`; or `none`.
        clip_interval: With `amortised` and `none`, the steps from one measurement of both
            gradients to the next.
        task_weight: Factor on the cross-entropy.
        transfer_weight: Factor on the transfer loss.
        transfer_epochs: In 2-stage training, epochs of transfer alone before `epochs` of the task
            alone, an added soft target with it. 0 for 1-stage training: both at once.
    """

    knowledge: str = ""
    teacher_precision: Literal["float32", "bf16", "auto"] | None = None
    student_taps: list[str] = field(default_factory=list)
    clip: Literal["norm", "poster", "global", "none", "amortised"] = "amortised"
    clip_interval: int = 10
    task_weight: float = 1.0
    transfer_weight: float = 1.0
    transfer_epochs: int = 0

    def check(self) -> None:
        """Raise `ArgumentError` for the first invalid value."""
        if self.knowledge:
            self._check_knowledge()
        super().check()
        if not self.knowledge and not self.teacher:
            raise ArgumentError(
                "teacher",
                expected="a run directory, a .safetensors file, timm:NAME, torchvision:NAME, "
                "hf:NAME or module:attr",
                got="nothing",
                remedy="give --teacher; `svdistill train` makes one",
            )
        require_count("transfer_epochs", self.transfer_epochs, 0)
        require_count("clip_interval", self.clip_interval)
        for name in ("task_weight", "transfer_weight"):
            require_positive(name, getattr(self, name))
        require_whole_batches(self)

    def _check_knowledge(self) -> None:
        """Raise where an option contradicts the store, which determines teacher, taps and views."""
        defaults: dict[str, Any] = {
            "teacher": "",
            "teacher_weights": "",
            "teacher_network": None,
            "teacher_taps": [],
            "teacher_precision": None,
            "views": 0,
            "views_seed": None,
        }
        for name, default in defaults.items():
            if getattr(self, name) != default:
                raise ArgumentError(
                    name,
                    expected="nothing beside knowledge, since the store says it",
                    got=repr(getattr(self, name)),
                    remedy=f"leave out {name}, or give --teacher instead of --knowledge",
                )
