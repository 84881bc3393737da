"""How long, how wide and on what the experiments are run: in seconds, in hours, or as the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from svdistill.errors import require_choice
from svdistill.training import TrainConfig


@dataclass(frozen=True)
class Pair:
    """A teacher and a student of the seed.

    Attributes:
        name: as `--network` says it.
        teacher: the teacher's network.
        student: the student's network.
        vectors: whether the seed counts the number of vectors with it.
    """

    name: str
    teacher: str
    student: str
    vectors: bool = False


# In the order in which they are run.
PAIRS: Final = (
    Pair("vgg", "vgg_teacher", "vgg_student", vectors=True),
    Pair("vgg_stride", "vgg_teacher", "vgg_stride_student", vectors=True),
    Pair("mobilenet", "mobilenet_teacher", "mobilenet_student"),
    Pair("resnext", "resnext_teacher", "resnext_student"),
)


@dataclass(frozen=True)
class Preset:
    """What the runs of an experiment share.

    Attributes:
        name: as `--preset` says it.
        teacher: a teacher's run; its network, seed and places are filled in.
        student: a student's run, likewise.
        transfer_epochs: of the first of two stages.
        views: random views of each image. So many are kept in a knowledge store that a teacher's
            students share; with 0 each image is a new one in every epoch, and the teacher is run.
        pairs: names of the pairs that are run unless others are asked for.
        in_full: of these, the pairs for which every method is run.
        seeds: how often a student is trained.
        methods: names of the methods that are run unless others are asked for; empty for the
            experiment's own.
        bf16: networks that compute in bfloat16, where that was measured to be faster.
        store_vectors: singular vectors per tap in a shared store of the paper's SVD loss. A method
            with more runs its teacher.
        teacher_epochs: epochs of the teachers that need others than `teacher` says.
        keep_stores: whether a store stays on disk once its students are finished.
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
    bf16: tuple[str, ...] = ()
    store_vectors: int = 16
    teacher_epochs: Mapping[str, int] = field(default_factory=dict)
    keep_stores: bool = True


_SEED: Final = TrainConfig(output="", data="parquet:data/cifar100")
_MINI: Final = replace(
    _SEED,
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
    _MINI, data="digits", width=0.25, classes_every=1, train_size=200, epochs=2, batch_size=50
)
_FULL: Final = replace(
    _MINI, width=1.0, classes_every=1, epochs=30, max_grad_norm=5.0, checkpoint_minutes=5.0
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
        # Without batch norm the deep VGG learns slowly; a teacher must be ahead of its students.
        teacher=replace(_MINI, epochs=80, views_seed=None),
        # The soft target's gradient is far greater than the labels': unbounded, it diverges.
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
        student=_FULL,
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
        ),
        # On a CPU with AVX-512 BF16 a step of these takes 0.4 to 0.7 of float32's time; depthwise
        # convolutions take 1.1.
        bf16=(
            "vgg_teacher",
            "vgg_student",
            "vgg_stride_student",
            "resnext_teacher",
            "resnext_student",
        ),
        store_vectors=1,
        teacher_epochs={"vgg_teacher": 60},  # without batch norm it learns slowly
        keep_stores=False,
    ),
    "seed": Preset(
        "seed",
        teacher=_SEED,
        student=_SEED,
        transfer_epochs=50,
        views=0,
        pairs=_EVERY_PAIR,
        in_full=_EVERY_PAIR,
        seeds=3,
    ),
}


def find_pairs(names: tuple[str, ...]) -> list[Pair]:
    """The pairs of these names, in the order in which they are run.

    Raises:
        ArgumentError: a name that no pair has.

    Example:
        >>> [pair.student for pair in find_pairs(("vgg_stride", "vgg"))]
        ['vgg_student', 'vgg_stride_student']
    """
    for name in names:
        require_choice("network", name, _EVERY_PAIR)
    return [pair for pair in PAIRS if pair.name in names]
