"""What a knowledge store is made of: a plain dataclass, the same for YAML, flags and Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from svdistill.common import ArgumentError, require_choice, require_count, require_positive
from svdistill.config.training import fill_options, require_teacher_weights
from svdistill.losses import DEFAULT_LOSS, require_read
from svdistill.networks import require_network
from svdistill.store import DTYPES


@dataclass(kw_only=True)
class CacheConfig:
    """Compute a teacher's knowledge of all training images once, and keep it on disk.

    Args:
        output: Knowledge store to make.
        teacher: A run directory, a .safetensors file, `timm:NAME`, `torchvision:NAME`,
            `hf:NAME_OR_FOLDER`, or `module:attr` of your own code.
        teacher_weights: For `timm:`, `torchvision:` and `hf:`, a weights file; empty for the
            published ones.
        teacher_network: The network's name, for a .safetensors file that does not say it.
        teacher_width: Likewise, the factor on its channel counts.
        teacher_taps: Module paths of the teacher's taps. If empty, the paper's networks have their
            own, and of others the last stages are taken.
        data: Where images come from: `digits`, `parquet:PATH`, `folder:PATH`, `hub:NAME` or
            `tiny_imagenet:PATH`.
        image_size: Side in pixels to which images are resized. If empty, as the teacher knows them.
        classes_every: Keep every n-th class only.
        classes: `N@SEED` keeps N of these, drawn by their names; empty keeps all.
        train_size: Keep that many training images, the same share of each class; empty keeps all.
        dev_fraction: Share of the training images held out; their knowledge is not kept.
        unlabelled: More images for students without their labels, see `svdistill distill --help`;
            their knowledge is kept too.
        label_column: Column of the labels in a table; empty for the one that is named like it.
        image_column: Column of the images in a table; likewise.
        train_split: Split to train on, by its name; empty for the obvious one, `.` for a folder
            whose folders are all classes.
        test_split: Split to test on; empty for the obvious one, `cut` for a part of the training
            split.
        memory_limit_gb: Decoded images up to this size stay in memory; more are streamed.
        workers: Processes that decode streamed images; empty for one a core, up to 8.
        augmentation: `paper` (flip, rotation, crop), `crop_flip` or `none`.
        views: Random views of each image, 1 or more. A student sees one in each epoch, and after
            the last one the first again.
        views_seed: Seed of the views.
        loss: What students are to learn by: any sum of the losses listed below, such as
            `fsp+soft_target`, and of `module:Class` of your own code.
        num_vectors: Singular vectors per tap; empty for 4 (position_svd) or 1 (svd).
        grid: Maps are average-pooled to at most this many positions a side before their positions
            are compared; 0 for none; empty for 8 (position_gram, cosine) or 0 (position_svd).
        beta: Width of the radial basis function; empty for 8 (svd).
        gradient: `exact`, the `poster`'s formula, or what its `authors`' code computes; empty for
            `exact` (svd).
        temperature: Softening of the predictions; empty for 4 (soft_target, dkd, dist) or 2 (lskd).
        nontarget_weight: Factor on the part of decoupled distillation that compares the classes
            other than the label's; empty for 8 (dkd).
        soft_target_weight: Factor on a loss on logits (soft_target, dkd, dist, lskd) where it is
            added to another loss.
        dtype: Of the numbers on disk, `float16` or `float32`; at most 16 of them stay float32.
        precision: Of the teacher's computations, `float32` or `bf16`. Decompositions are computed
            in float32 either way.
        batch_size: Images that the teacher sees at once.
        device: `auto`, `cpu` or `cuda`.
        resume: Check the store in `output`, and write what is missing or damaged.
    """

    output: str
    teacher: str = ""
    teacher_weights: str = ""
    teacher_network: str | None = None
    teacher_width: float = 1.0
    teacher_taps: list[str] = field(default_factory=list)
    data: str = "digits"
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
    views_seed: int = 0
    loss: str = DEFAULT_LOSS
    num_vectors: int | None = None
    beta: float | None = None
    gradient: Literal["exact", "poster", "authors"] | None = None
    temperature: float | None = None
    grid: int | None = None
    nontarget_weight: float | None = None
    soft_target_weight: float = 1.0
    dtype: Literal["float16", "float32"] = "float16"
    precision: Literal["float32", "bf16"] = "float32"
    batch_size: int = 256
    device: Literal["auto", "cpu", "cuda"] = "auto"
    resume: bool = False

    def __post_init__(self) -> None:
        fill_options(self)

    def check(self) -> None:
        """Raise `ArgumentError` for the first value that no store can have."""
        for name, expected in (("output", "a directory"), ("teacher", "a trained network")):
            if not getattr(self, name):
                remedy = f"give --{name}"
                raise ArgumentError(name, expected=expected, got="nothing", remedy=remedy)
        if self.teacher_network is not None:
            require_network("teacher_network", self.teacher_network)
        require_teacher_weights(self.teacher_weights, self.teacher)
        require_count("views", self.views)
        for name, least in (("batch_size", 1), ("classes_every", 1), ("views_seed", 0)):
            require_count(name, getattr(self, name), least)
        if self.workers is not None:
            require_count("workers", self.workers, 0)
        for name in ("teacher_width", "soft_target_weight"):
            require_positive(name, getattr(self, name))
        require_read(self)
        require_choice("augmentation", self.augmentation, ("paper", "crop_flip", "none"))
        require_choice("dtype", self.dtype, DTYPES)
        require_choice("precision", self.precision, ("float32", "bf16"))
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        if self.augmentation == "none" and self.views > 1:
            raise ArgumentError(
                "views",
                expected="1, since without augmentation all views are the same",
                got=self.views,
                remedy="give --views 1, or another --augmentation",
            )
