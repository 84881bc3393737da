"""What a run is made of: plain dataclasses, the same for YAML, flags and Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from svdistill.common import ArgumentError, require_choice, require_count, require_positive
from svdistill.losses import (
    DEFAULT_LOSS,
    OPTIONS,
    LossOptions,
    option_defaults,
    require_read,
    require_whole_batches,
)
from svdistill.networks import is_zoo, require_network, require_width

# What a configuration says of a network or of data that was given as a Python object.
OBJECT: Final = "object"

# What stands for a library's published weights, where else a file is named.
PRETRAINED: Final = "pretrained"


def fill_options(config: LossOptions) -> None:
    """Set those options of a loss that were left out to what they are by default.

    A configuration that says them all is taken as it is: no code of the user's own is imported.
    """
    left_out = [option for option in OPTIONS if getattr(config, option) is None]
    if left_out:
        usual = option_defaults(config.loss)
        for option in left_out:
            setattr(config, option, usual[option])


@dataclass(kw_only=True)
class TrainConfig:
    """Train a network on labelled images.

    Args:
        output: Run directory to make. A finished run is never overwritten.
        data: Where images come from: `digits`, `parquet:PATH`, `folder:PATH`, `hub:NAME` or
            `tiny_imagenet:PATH`.
        network: Network to train: a name that `svdistill info` lists, `timm:NAME`,
            `torchvision:NAME`, `hf:NAME_OR_FOLDER`, or `module:attr` of your own code.
        weights: What the network starts from: `pretrained` for a library's published weights, or a
            file, .safetensors or tensors of torch.save. Empty for random weights.
        width: Factor on all channel counts of one of the paper's networks.
        image_size: Side in pixels to which images are resized. If empty, as a teacher or pretrained
            network knows them, else as they are.
        classes_every: Keep every n-th class only.
        classes: `N@SEED` keeps N of these, drawn by their names; empty keeps all.
        train_size: Keep that many training images, the same share of each class; empty keeps all.
        dev_fraction: Share of the training images held out to choose the best epoch on.
        unlabelled: For `distill`, more training images, of which no labels are needed:
            `folder:PATH`, `parquet:PATH`, `hub:NAME`, or `rest` for those that `train_size` leaves
            out. They are half of every batch; an epoch goes once over the labelled or the
            unlabelled ones, whichever last longer.
        label_column: Column of the labels in a table; empty for the one that is named like it.
        image_column: Column of the images in a table; likewise.
        train_split: Split to train on, by its name; empty for the obvious one, `.` for a folder
            whose folders are all classes.
        test_split: Split to test on; empty for the obvious one, `cut` for a part of the training
            split.
        memory_limit_gb: Decoded images up to this size stay in memory; more are streamed.
        workers: Processes that decode streamed images; empty for one a core, up to 8.
        augmentation: `paper` (flip, rotation, crop), `crop_flip` or `none`.
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
        precision: `float32`, `bf16`, or `fp16` (CUDA only).
        device: `auto`, `cpu` or `cuda`.
        capture: On a GPU, `auto` records each step as a CUDA graph and replays it; `off` does not.
        deterministic: Use deterministic algorithms only, so that equal runs on one machine are
            equal bit by bit on a GPU too; slower, and refused where an operation has none.
        seed: Of initial weights, order, augmentation and dropout.
        checkpoint_minutes: Longest time between two checkpoints within an epoch; 0 saves at the
            ends of epochs only.
        resume: Continue the run in `output` from its last checkpoint.
    """

    output: str
    data: str = "digits"
    network: str = "vgg_student"
    weights: str = ""
    width: float = 1.0
    image_size: int | None = None
    classes_every: int = 1
    classes: str | None = None
    train_size: int | None = None
    dev_fraction: float = 0.0
    unlabelled: str = ""
    label_column: str | None = None
    image_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    memory_limit_gb: float = 8.0
    workers: int | None = None
    augmentation: Literal["paper", "crop_flip", "none"] = "paper"
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
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    capture: Literal["auto", "off"] = "auto"
    deterministic: bool = False
    seed: int = 0
    checkpoint_minutes: float = 10.0
    resume: bool = False

    def check(self) -> None:
        """Raise `ArgumentError` for the first value that no run can have."""
        if not self.output:
            raise ArgumentError(
                "output", expected="a directory", got="nothing", remedy="give --output DIR"
            )
        if self.network != OBJECT:
            require_network("network", self.network)
        if self.weights == PRETRAINED and not is_zoo(self.network):
            raise ArgumentError(
                "weights",
                expected="a weights file for a network without published weights",
                got=f"'pretrained' for {self.network!r}",
                remedy="give a file, or a network timm:NAME, torchvision:NAME or hf:NAME",
            )
        for name, least in (("epochs", 1), ("batch_size", 1), ("classes_every", 1), ("seed", 0)):
            require_count(name, getattr(self, name), least)
        require_count("accumulate", self.accumulate)
        if self.accumulate > self.batch_size:
            raise ArgumentError(
                "accumulate",
                expected=f"at most {self.batch_size}, the images in a step",
                got=self.accumulate,
                remedy="give fewer parts, or a larger batch_size",
            )
        if self.unlabelled:
            require_count("batch_size", self.batch_size, 2)  # of either kind at least one
        require_count("views", self.views, 0)
        for name in ("views_seed", "workers"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), 0)
        if self.unlabelled and type(self) is TrainConfig:
            raise ArgumentError(
                "unlabelled",
                expected="nothing where there is no teacher to learn from without labels",
                got=repr(self.unlabelled),
                remedy="leave it out, or distill a teacher",
            )
        require_width(self.network, self.width)
        require_positive("learning_rate", self.learning_rate)
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
        if self.max_grad_norm is not None:
            require_positive("max_grad_norm", self.max_grad_norm)
        require_choice("augmentation", self.augmentation, ("paper", "crop_flip", "none"))
        require_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        require_choice("schedule", self.schedule, ("paper", "one_cycle", "constant"))
        require_choice("precision", self.precision, ("float32", "bf16", "fp16"))
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        require_choice("capture", self.capture, ("auto", "off"))


@dataclass(kw_only=True)
class DistillConfig(TrainConfig):
    """Train a student network on labelled images and on what its teacher knows.

    Args:
        teacher: A run directory, a .safetensors file, `timm:NAME`, `torchvision:NAME`,
            `hf:NAME_OR_FOLDER`, or `module:attr` of your own code.
        teacher_weights: For `timm:`, `torchvision:` and `hf:`, a weights file; empty for the
            published ones.
        knowledge: A knowledge store made by `svdistill cache`, instead of a teacher.
        teacher_network: The network's name, for a .safetensors file that does not say it.
        teacher_width: Likewise, the factor on its channel counts.
        teacher_taps: Module paths of the teacher's taps. If empty, the paper's networks have their
            own, and stages of other networks are paired.
        student_taps: Module paths of the student's taps, as many; likewise.
        loss: What to transfer. `svd` compares channels as in the paper, `position_svd` positions.
            An added soft target counts as part of the task: it is not clipped. Any sum of the
            losses listed below, such as `fsp+soft_target`, and of `module:Class` of your own code.
        num_vectors: Singular vectors per tap; empty for 4 (position_svd) or 1 (svd).
        grid: Maps are average-pooled to at most this many positions a side before their positions
            are compared; 0 for none; empty for 8 (position_gram, cosine) or 0 (position_svd).
        beta: Width of the radial basis function; empty for 8 (svd).
        gradient: `exact`, the `poster`'s formula, or what its `authors`' code computes; empty for
            `exact` (svd).
        temperature: Softening of the predictions; empty for 4 (soft_target, dkd, dist) or 2 (lskd).
        nontarget_weight: Factor on the part of decoupled distillation that compares the classes
            other than the label's; empty for 8 (dkd).
        clip: Bound on the transfer gradient against the task's: `amortised` with one scale for all,
            measured in some steps only, for little more than the price of one gradient; `global`,
            which measures it in every step; per tensor `norm` (the paper's authors' code) or
            `poster`; or `none`.
        clip_interval: With `amortised` and `none`, the steps from one measurement of both
            gradients to the next.
        task_weight: Factor on the cross-entropy.
        transfer_weight: Factor on the transfer loss.
        soft_target_weight: Factor on a loss on logits (soft_target, dkd, dist, lskd) where it is
            added to another loss.
        transfer_epochs: In 2-stage training, epochs of transfer alone before `epochs` of the task
            alone, an added soft target with it. 0 for 1-stage training: both at once.
    """

    teacher: str = ""
    teacher_weights: str = ""
    knowledge: str = ""
    teacher_network: str | None = None
    teacher_width: float = 1.0
    teacher_taps: list[str] = field(default_factory=list)
    student_taps: list[str] = field(default_factory=list)
    loss: str = DEFAULT_LOSS
    num_vectors: int | None = None
    beta: float | None = None
    gradient: Literal["exact", "poster", "authors"] | None = None
    temperature: float | None = None
    grid: int | None = None
    nontarget_weight: float | None = None
    clip: Literal["norm", "poster", "global", "none", "amortised"] = "amortised"
    clip_interval: int = 10
    task_weight: float = 1.0
    transfer_weight: float = 1.0
    soft_target_weight: float = 1.0
    transfer_epochs: int = 0

    def __post_init__(self) -> None:
        fill_options(self)

    def check(self) -> None:
        """Raise `ArgumentError` for the first value that no run can have."""
        super().check()
        if self.knowledge:
            self._check_with_knowledge()
        elif not self.teacher:
            raise ArgumentError(
                "teacher",
                expected="a run directory, a .safetensors file, timm:NAME, torchvision:NAME, "
                "hf:NAME or module:attr",
                got="nothing",
                remedy="give --teacher; `svdistill train` makes one",
            )
        if self.teacher_network is not None:
            require_network("teacher_network", self.teacher_network)
        require_teacher_weights(self.teacher_weights, self.teacher)
        require_count("transfer_epochs", self.transfer_epochs, 0)
        require_count("clip_interval", self.clip_interval)
        for name in ("task_weight", "transfer_weight", "soft_target_weight", "teacher_width"):
            require_positive(name, getattr(self, name))
        require_read(self)
        require_whole_batches(self)

    def _check_with_knowledge(self) -> None:
        """The store says which teacher, taps and views its knowledge is of."""
        unsaid: dict[str, Any] = {
            "teacher": "",
            "teacher_weights": "",
            "teacher_network": None,
            "teacher_taps": [],
            "views": 0,
            "views_seed": None,
        }
        for name, value in unsaid.items():
            if getattr(self, name) != value:
                raise ArgumentError(
                    name,
                    expected="nothing beside knowledge, since the store says it",
                    got=repr(getattr(self, name)),
                    remedy=f"leave out {name}, or give --teacher instead of --knowledge",
                )


def require_teacher_weights(weights: str, teacher: str) -> None:
    """Raise `ArgumentError` unless weights are given for a teacher that can have others."""
    if weights and not is_zoo(teacher):
        raise ArgumentError(
            "teacher_weights",
            expected="nothing beside a teacher that has its own weights",
            got=repr(weights),
            remedy="leave it out, or give a teacher timm:NAME, torchvision:NAME or hf:NAME",
        )
