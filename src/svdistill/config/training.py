"""The options of `svdistill train` and `svdistill distill`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from svdistill.common import ArgumentError, require_count, require_positive
from svdistill.config.data import OBJECT, DataConfig
from svdistill.config.teacher import TeacherConfig
from svdistill.losses import require_whole_batches
from svdistill.networks import is_zoo, require_network, require_width

# The value of `weights` for a library's published weights instead of a file.
PRETRAINED: Final = "pretrained"

# Options that a knowledge store determines. Beside a store they must have these values.
SAID_BY_STORE: Final[dict[str, Any]] = {
    "teacher": "",
    "teacher_weights": "",
    "teacher_network": None,
    "teacher_taps": [],
    "teacher_precision": None,
    "views": 0,
    "views_seed": None,
}

# Default learning rate and weight decay of each optimizer. Those of `sgd` are the same as in all
# presets but the paper's; those of `adamw` are PyTorch's defaults.
USUAL_RATES: Final = {"sgd": (0.03, 5e-4), "adamw": (1e-3, 1e-2)}


@dataclass(kw_only=True)
class TrainConfig(DataConfig):
    """Train a network on labelled images.

    Args:
        network: Network to train: a name that `svdistill info` lists, `timm:NAME`,
            `torchvision:NAME`, `hf:NAME_OR_FOLDER`, or `module:attr` of your own code.
        weights: Initial weights: `pretrained` for a library's published ones, or a file, either
            .safetensors or tensors of torch.save. Empty for random weights.
        width: Factor on all channel counts, for the paper's networks.
        views: Number of different random views of each image; 0 for a new one in every epoch.
        views_seed: Seed of the views; empty for the run's own.
        epochs: Passes over the training images.
        batch_size: Images in a step, over all processes.
        accumulate: Number of parts into which each batch is divided to save memory. The gradients
            are those of the whole batch, except that batch norm and dropout see one part at a time.
        optimizer: `sgd` (Nesterov momentum 0.9) or `adamw`.
        learning_rate: Highest learning rate of the schedule; empty for 0.03 (`sgd`) or 0.001
            (`adamw`).
        weight_decay: Weight decay, coupled to the gradient (`sgd`) or decoupled (`adamw`); empty
            for 0.0005 (`sgd`) or 0.01 (`adamw`).
        schedule: `one_cycle` (up over 30 % of the steps, then down along a cosine), `paper` (x0.1
            at half the steps, x0.01 at 3/4), `cosine` (after a warm-up, down to 0), `constant`.
        warmup_epochs: Epochs of a rising learning rate before `cosine`; empty for 5, or a tenth of
            the epochs if that is less.
        max_grad_norm: Bound on the norm of the whole gradient; `null` for none.
        dropout: Probability of the network's dropout layers (`nn.Dropout` and its like); empty for
            their own.
        label_smoothing: Probability that the labels' cross-entropy spreads over all classes, such
            as 0.1.
        mix: Mix each image and its label with another one of the batch: `mixup`, `cutmix`, or
            `both`, one of them in each step. Teacher and student see the same mixed images. Empty
            for none.
        mix_alpha: The share of an image is drawn from Beta(alpha, alpha); empty for 0.2 (mixup) and
            1 (cutmix).
        ema: Decay of a moving average of the weights, such as 0.999, which is evaluated and saved
            in place of the weights. Empty for none.
        precision: `float32`, `bf16`, or `fp16` (CUDA only), by autocast. `auto` times a few steps
            in float32 and bf16, and takes bf16 if it saves 10 % or more.
        device: `auto`, `cpu` or `cuda`.
        capture: On a GPU, `auto` records each step as a CUDA graph and replays it; `off` does not.
        deterministic: Use deterministic algorithms only, so that equal runs on one machine are
            equal bit for bit on a GPU too. Slower; an error if an operation has no such algorithm.
        seed: Seed of initial weights, order of images, augmentation and dropout.
        checkpoint_minutes: Longest time between two checkpoints within an epoch; 0 saves at the
            ends of epochs only.
        resume: Continue the run in `output` from its last checkpoint.
    """

    network: str = "vgg_student"
    weights: str = ""
    width: float = 1.0
    views: int = 0
    views_seed: int | None = None
    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: Literal["paper", "one_cycle", "cosine", "constant"] = "one_cycle"
    warmup_epochs: float | None = None
    max_grad_norm: float | None = 5.0
    dropout: float | None = None
    label_smoothing: float = 0.0
    mix: Literal["mixup", "cutmix", "both"] | None = None
    mix_alpha: float | None = None
    ema: float | None = None
    precision: Literal["float32", "bf16", "fp16", "auto"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    capture: Literal["auto", "off"] = "auto"
    deterministic: bool = False
    seed: int = 0
    checkpoint_minutes: float = 10.0
    resume: bool = False

    def usual_values(self) -> dict[str, Any]:
        """See `DataConfig.usual_values`; here learning rate and weight decay of the optimizer."""
        rate, decay = USUAL_RATES.get(self.optimizer, USUAL_RATES["sgd"])
        return {**super().usual_values(), "learning_rate": rate, "weight_decay": decay}

    def check(self) -> None:
        """Raise `ArgumentError` for the first invalid value."""
        super().check()
        self._check_network()
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("views", 0)):
            require_count(name, getattr(self, name), least)
        if self.views_seed is not None:
            require_count("views_seed", self.views_seed, 0)
        self._check_batches()
        for name in ("learning_rate", "max_grad_norm"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        self._check_recipe()
        if self.weight_decay is not None and not self.weight_decay >= 0:
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

    def warmup(self, epochs: int) -> float:
        """Number of warm-up epochs in a stage of `epochs` epochs; 0 unless `schedule` is cosine."""
        if self.schedule != "cosine":
            return 0.0
        usual = min(5.0, epochs / 10)
        return usual if self.warmup_epochs is None else min(self.warmup_epochs, epochs)

    def _check_recipe(self) -> None:
        for name, limit in (
            ("dropout", 1.0),
            ("label_smoothing", 1.0),
            ("ema", 1.0),
            ("warmup_epochs", self.epochs),
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < limit:
                raise ArgumentError(
                    name,
                    expected=f"0 to below {limit:g}",
                    got=value,
                    remedy="give a number in this range, or leave it out",
                )
        if self.mix_alpha is not None:
            require_positive("mix_alpha", self.mix_alpha)
        for name, read, reader in (
            ("warmup_epochs", self.schedule == "cosine", "--schedule cosine"),
            ("mix_alpha", self.mix is not None, "--mix"),
        ):
            if getattr(self, name) is not None and not read:
                raise ArgumentError(
                    name,
                    expected=f"nothing without {reader}, which alone reads it",
                    got=getattr(self, name),
                    remedy=f"leave it out, or give {reader}",
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
        teacher_precision: Precision of the teacher, `float32`, `bf16` or `auto`; empty for the
            student's option, where `auto` is measured for each of them alone.
        student_taps: Module paths of the student's taps, as many as the teacher's. If empty, they
            are chosen like the teacher's.
        clip: Bound on the transfer gradient relative to the task's. `amortised`: one scale for all
            tensors, measured in one of `clip_interval` steps, at little more than the cost of one
            gradient. `global`: the same scale, measured in every step. `norm` (the paper's
            authors' code) and `poster`: one scale per tensor. `none`: no bound. Empty for
            `amortised`, or for `none` with losses on logits alone.
        clip_interval: With `amortised` and `none`, number of steps from one measurement of both
            gradients to the next.
        task_weight: Factor on the cross-entropy; empty for 1, or 0.1 (soft_target alone, lskd).
        transfer_weight: Factor on the transfer loss; empty for 0.9 (soft_target alone) or 1.
        transfer_epochs: For 2-stage training, epochs of the transfer loss alone, before `epochs` of
            the task alone, which includes an added soft target. 0 for 1-stage training: both at
            once.
    """

    knowledge: str = ""
    teacher_precision: Literal["float32", "bf16", "auto"] | None = None
    student_taps: list[str] = field(default_factory=list)
    clip: Literal["norm", "poster", "global", "none", "amortised"] | None = None
    clip_interval: int = 10
    task_weight: float | None = None
    transfer_weight: float | None = None
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
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        require_whole_batches(self)

    def _check_knowledge(self) -> None:
        """Raise `ArgumentError` for an option that a knowledge store fixes or rules out."""
        for name, default in SAID_BY_STORE.items():
            if getattr(self, name) != default:
                raise ArgumentError(
                    name,
                    expected="nothing beside knowledge, since the store says it",
                    got=repr(getattr(self, name)),
                    remedy=f"leave out {name}, or give --teacher instead of --knowledge",
                )
        if self.mix is not None:
            raise ArgumentError(
                "mix",
                expected="nothing beside knowledge, since a store knows no mixed images",
                got=repr(self.mix),
                remedy="leave out --mix, or give --teacher instead of --knowledge",
            )
