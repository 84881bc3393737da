"""What experiments are made of: methods, pairs of networks, and presets (epochs, width, data)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from svdistill.common import require_choice
from svdistill.config import TrainConfig
from svdistill.losses import loss_specs, usual_weights


@dataclass(frozen=True)
class Method:
    """One way to train a student.

    Attributes:
        name: the name for `--method` and for the run's folder.
        options: fields of `DistillConfig` that differ from their defaults; empty for a student
            trained alone.
        stages: 1, or 2 to train by the transfer loss alone first, and then by the task loss alone.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    stages: int = 1

    @property
    def needs_teacher(self) -> bool:
        """Whether the method has a transfer loss, and so a teacher."""
        return "loss" in self.options


SVD: Final = "svd"


def _svd(name: str, stages: int = 1, clip: str = "norm", **options: Any) -> Method:
    """A variant of the paper's method, with other options."""
    return Method(name, {"loss": SVD, "clip": clip, **options}, stages)


# Weights as in Hinton et al., 2015.
SOFT_TARGET: Final = {
    "loss": "soft_target",
    "clip": "none",
    "task_weight": 0.1,
    "transfer_weight": 0.9,
}

# The same weights for soft targets beside a clipped transfer loss.
BESIDE_SOFT: Final = {"task_weight": 0.1, "soft_target_weight": 0.9}

# The SVD loss with positions in the role of channels, with the loss's default options.
POSITIONS: Final[dict[str, Any]] = {
    "loss": "position_svd",
    "clip": "amortised",
    **loss_specs("position_svd")[0].options,
}

FSP: Final = {"loss": "fsp", "clip": "norm"}


def _beside_soft(loss: str, name: str = "", **options: Any) -> Method:
    """A method that adds soft targets to a loss on feature maps, with amortised clipping."""
    taught = {"loss": f"{loss}+soft_target", "clip": "amortised", **BESIDE_SOFT, **options}
    return Method(f"{name or loss.replace('_', '-')}-soft-target", taught)


ALONE: Final = Method("student")

HINTON: Final = Method("soft-target", SOFT_TARGET)

GRAM: Final = _beside_soft("position_gram", "position-gram-grid4", grid=4)

# Other papers' losses on logits, with the weights of these papers.
DIST: Final = Method("dist", {"loss": "dist", "clip": "none"})
DKD: Final = Method("dkd", {"loss": "dkd", "clip": "none", "nontarget_weight": 2.0})
LSKD: Final = Method("lskd", {"loss": "lskd", "clip": "none", "task_weight": 0.1})

# The default of `svdistill distill`.
OF_GRAM: Final = {"clip": "amortised", "grid": 4, "task_weight": 1.0, "soft_target_weight": 1.0}
GRAM_DIST: Final = Method("position-gram-dist", {"loss": "position_gram+dist", **OF_GRAM})

# The methods of the paper's table, then variants of this library: amortised clipping, soft targets
# beside SVD, losses on positions, and the default of `svdistill distill`.
CORE: Final = (
    ALONE,
    HINTON,
    Method("fsp-2-stage", FSP, stages=2),
    _svd("svd"),
    _svd("svd-amortised", clip="amortised"),
    Method("svd-soft-target", {"loss": "svd+soft_target", "clip": "amortised", **BESIDE_SOFT}),
    Method("position-svd", POSITIONS),
    _beside_soft("position_svd", **loss_specs("position_svd")[0].options),
    GRAM,
    GRAM_DIST,
)

STAGES: Final = (Method("fsp", FSP), _svd("svd-2-stage", stages=2))

VARIANTS: Final = (
    Method("svd-norm-soft-target", {"loss": "svd+soft_target", "clip": "norm", **BESIDE_SOFT}),
    _svd("svd-poster-clip", clip="poster"),
    _svd("svd-poster-gradient", gradient="poster"),
    _svd("svd-authors-gradient", gradient="authors"),
    _svd("svd-amortised-poster-gradient", clip="amortised", gradient="poster"),
    _svd("svd-amortised-authors-gradient", clip="amortised", gradient="authors"),
)


COSINE: Final = _beside_soft("cosine", grid=8)
SIMILARITY: Final = _beside_soft("sp")

# Losses of other papers, each with its paper's weights. Soft targets are added to losses on feature
# maps.
RIVALS: Final = (
    GRAM,
    _beside_soft("position_gram", "position-gram-grid8", grid=8),
    _beside_soft("at"),
    SIMILARITY,
    COSINE,
    DIST,
    DKD,
    Method("dkd-8", {**DKD.options, "nontarget_weight": 8.0}),
    LSKD,
    Method("position-svd-dist", {**POSITIONS, "loss": "position_svd+dist"}),
    GRAM_DIST,
    # The default loss of `distill` if a batch is processed in parts.
    _beside_soft("position_gram", grid=4, task_weight=1.0, soft_target_weight=3.0),
    Method("position-gram-soft-target-dist", {"loss": "position_gram+soft_target+dist", **OF_GRAM}),
)


def _settings(method: Method) -> tuple[Method, ...]:
    """Four settings of a method: task weight 0.1 or 1, weight of its loss on logits x1 or x3."""
    loss = method.options["loss"]
    name = "soft_target_weight" if "+" in loss else "transfer_weight"
    own = method.options.get(name, usual_weights(loss)[name])
    return tuple(
        Method(
            f"{method.name}-task{task:g}-w{weight:.2g}",
            {**method.options, "task_weight": task, name: weight},
        )
        for task in (0.1, 1.0)
        for weight in (own, 3 * own)
    )


# The same number of settings of each loss, among which `search` chooses on held-out images.
SEARCH: Final = tuple(
    setting
    for method in (GRAM, GRAM_DIST, HINTON, DIST, DKD, LSKD, COSINE, SIMILARITY)
    for setting in _settings(method)
)

# Position SVD beside soft targets, and position Gram, with one property changed at a time.
ABLATION: Final = (
    *(_beside_soft("position_svd", f"position-svd-k{k}", num_vectors=k) for k in (1, 2, 8)),
    *(_beside_soft("position_svd", f"position-svd-grid{n}", grid=n) for n in (8, 4)),
    *(_beside_soft("position_gram", f"position-gram-grid{n}", grid=n) for n in (8, 0)),
    Method("position-gram", {"loss": "position_gram", "clip": "amortised"}),
    *(
        _beside_soft("position_gram", f"position-gram-weight{weight}", transfer_weight=weight)
        for weight in (0.3, 3.0)
    ),
    *(
        _beside_soft(
            "position_gram", f"position-gram-{tap}", teacher_taps=[tap], student_taps=[tap]
        )
        for tap in ("stage1", "stage2", "stage3", "stage4")
    ),
)

VECTORS: Final = (1, 2, 4, 8, 16)

METHODS: Final = (*CORE, *STAGES, *VARIANTS)


def every_method() -> tuple[Method, ...]:
    """All methods: also with more vectors, of other papers, of the search and of the ablation."""
    methods = (*METHODS, *vector_methods(), *RIVALS, *SEARCH, *ABLATION)
    return tuple({method.name: method for method in methods}.values())


def vector_methods() -> tuple[Method, ...]:
    """The SVD methods of `CORE` with each number of vectors."""
    taught = [method for method in CORE if method.options.get("loss") == SVD]
    return tuple(with_vectors(method, count) for method in taught for count in VECTORS)


def method_of_loss(loss: str) -> Method:
    """The method of a loss, given as `svdistill distill --loss` takes it, with default options.

    Example:
        >>> method_of_loss("fsp+svdistill.losses:PositionSVDLoss").name
        'fsp-svdistill.losses.PositionSVDLoss'
    """
    loss_specs(loss)  # raises for a misspelt name
    return Method(loss.replace("+", "-").replace(":", "."), {"loss": loss})


def with_vectors(method: Method, count: int) -> Method:
    """The method with `count` singular vectors; with one vector, the method unchanged."""
    if count == 1:
        return method
    options = {**method.options, "num_vectors": count}
    return replace(method, name=f"{method.name}-k{count}", options=options)


@dataclass(frozen=True)
class Pair:
    """A teacher network and a student network of the paper.

    Attributes:
        name: the pair's name for `--network`.
        teacher: the name of the teacher's network.
        student: the name of the student's network.
        vectors: whether the paper varies the number of singular vectors for this pair.
    """

    name: str
    teacher: str
    student: str
    vectors: bool = False


# The pairs, in the order in which they are run.
PAIRS: Final = (
    Pair("vgg", "vgg_teacher", "vgg_student", vectors=True),
    Pair("vgg_stride", "vgg_teacher", "vgg_stride_student", vectors=True),
    Pair("mobilenet", "mobilenet_teacher", "mobilenet_student"),
    Pair("resnext", "resnext_teacher", "resnext_student"),
)


@dataclass(frozen=True)
class Preset:
    """Settings that the runs of an experiment share.

    Attributes:
        name: the preset's name for `--preset`.
        teacher: configuration of teachers; `plan` fills in network, seed and folders.
        student: configuration of students; `plan` fills in the same fields.
        transfer_epochs: epochs of the first stage of two-stage methods.
        views: random views per image, kept in a knowledge store that a teacher's students share.
            With 0 every epoch draws new views, and the teacher runs in every step.
        pairs: names of the default pairs of networks.
        in_full: names of the pairs that are trained with every method by default.
        seeds: number of trainings of each student.
        methods: names of the default methods; empty for those of the experiment.
        store_vectors: singular vectors per tap in a shared store of the SVD loss. Students of a
            method with more vectors run the teacher instead.
        keep_stores: whether a store stays on disk after its students are finished.
    """

    name: str
    teacher: TrainConfig
    student: TrainConfig
    transfer_epochs: int
    views: int
    pairs: tuple[str, ...]
    in_full: tuple[str, ...]
    seeds: int
    methods: tuple[str, ...] = ()
    store_vectors: int = 16
    keep_stores: bool = True


_PAPER: Final = TrainConfig(
    output="",
    data="parquet:data/cifar100",
    augmentation="paper",
    epochs=200,
    batch_size=128,
    learning_rate=0.01,
    weight_decay=1e-4,
    schedule="paper",
    max_grad_norm=None,
)

_MINI: Final = replace(
    _PAPER,
    width=0.5,
    classes_every=5,
    augmentation="crop_flip",
    views_seed=0,
    epochs=24,
    learning_rate=0.03,
    weight_decay=5e-4,
    schedule="one_cycle",
)

_SMOKE: Final = replace(
    _MINI,
    data="digits",
    width=0.25,
    classes_every=1,
    train_size=200,
    test_size=200,
    epochs=2,
    batch_size=50,
)

# Which precision is faster depends on the processor as much as on the network: on one with AVX-512
# BF16, bf16 took 0.4 to 0.7 of float32's time for VGG, on a later one 1.3 times as long.
_FULL: Final = replace(
    _MINI,
    width=1.0,
    classes_every=1,
    epochs=30,
    max_grad_norm=5.0,
    precision="auto",
    checkpoint_minutes=5.0,
)

_EVERY_PAIR: Final = tuple(pair.name for pair in PAIRS)

PRESETS: Final = {
    "smoke": Preset(
        "smoke",
        teacher=replace(_SMOKE, views_seed=None),
        student=_SMOKE,
        transfer_epochs=1,
        views=2,
        pairs=_EVERY_PAIR,
        in_full=("vgg_stride",),
        seeds=1,
    ),
    "mini": Preset(
        "mini",
        # VGG has no batch norm and learns slowly, so it needs many epochs to surpass its students.
        teacher=replace(_MINI, epochs=80, views_seed=None),
        # The soft targets' gradient is far larger than the labels': without a bound on the norm,
        # training diverges.
        student=replace(_MINI, max_grad_norm=5.0),
        transfer_epochs=8,
        views=24,
        pairs=("vgg", "vgg_stride", "mobilenet"),
        in_full=("vgg_stride",),
        seeds=3,
    ),
    "full": Preset(
        "full",
        teacher=replace(_FULL, views_seed=None),
        # In 30 epochs no distilled student learns its images by heart: without dropout, and at a
        # higher learning rate, it follows its teacher more closely.
        student=replace(_FULL, dropout=0.0, learning_rate=0.06, schedule="cosine"),
        transfer_epochs=10,
        views=30,
        pairs=_EVERY_PAIR,
        in_full=("vgg_stride",),
        seeds=3,
        methods=(
            "student",
            "soft-target",
            "fsp-2-stage",
            "svd",
            "svd-amortised",
            "position-svd-soft-target",
            GRAM_DIST.name,
        ),
        store_vectors=1,
        keep_stores=False,
    ),
    "paper": Preset(
        "paper",
        teacher=_PAPER,
        student=replace(_PAPER, max_grad_norm=5.0),
        transfer_epochs=50,
        views=0,
        pairs=_EVERY_PAIR,
        in_full=_EVERY_PAIR,
        seeds=3,
    ),
}


def find_pairs(names: tuple[str, ...]) -> list[Pair]:
    """Find pairs by name, in the order in which they are run.

    Raises:
        ArgumentError: a name is not that of a pair.

    Example:
        >>> [pair.student for pair in find_pairs(("vgg_stride", "vgg"))]
        ['vgg_student', 'vgg_stride_student']
    """
    for name in names:
        require_choice("network", name, _EVERY_PAIR)
    return [pair for pair in PAIRS if pair.name in names]
