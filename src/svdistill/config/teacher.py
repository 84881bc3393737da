"""The options on teacher and loss, which `distill` and `cache` share, and those of `cache`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from svdistill.common import ArgumentError, require_count, require_positive
from svdistill.config.data import DataConfig
from svdistill.losses import default_loss, option_defaults, require_read, usual_weights
from svdistill.networks import is_zoo, require_network


@dataclass(kw_only=True)
class TeacherConfig(DataConfig):
    """A teacher, its taps, and the loss that students learn by.

    Args:
        teacher: A run directory, a .safetensors file, `timm:NAME`, `torchvision:NAME`,
            `hf:NAME_OR_FOLDER`, or `module:attr` of your own code.
        teacher_weights: For `timm:`, `torchvision:` and `hf:`, a weights file; empty for the
            published ones.
        teacher_network: The network's name, for a .safetensors file that does not contain it.
        teacher_width: Factor on the network's channel counts, for such a file.
        teacher_taps: Module paths of the teacher's taps. If empty, the paper's networks have fixed
            taps; of other networks `distill` pairs stages, and `cache` takes the last ones.
        loss: The transfer loss: one of those listed below, `module:Class` of your own code, or a
            sum of several, such as `fsp+soft_target`. `svd` compares channels as in the paper,
            `position_svd` positions. An added loss on logits counts as part of the task: its
            gradient is not clipped. Empty for `position_gram+dist`, or `position_gram+soft_target`
            where a batch comes in parts (`accumulate`, several processes).
        num_vectors: Singular vectors per tap; empty for 4 (position_svd) or 1 (svd).
        grid: Maps are average-pooled to at most grid x grid positions before positions are
            compared; 0 for no pooling; empty for 4 (position_gram), 8 (cosine) or 0
            (position_svd).
        beta: Width of the radial basis function; empty for 8 (svd).
        gradient: `exact`, `poster` (the formula of the paper's poster) or `authors` (that of the
            authors' code); empty for `exact` (svd).
        temperature: Divisor of the logits; empty for 4 (soft_target, dkd, dist) or 2 (lskd).
        nontarget_weight: Factor on the part of decoupled distillation that compares the classes
            other than the label's; empty for 8 (dkd).
        soft_target_weight: Factor on a loss on logits (soft_target, dkd, dist, lskd) where it is
            added to another loss; empty for 3 (soft_target) or 1. Of several the first decides.
    """

    teacher: str = ""
    teacher_weights: str = ""
    teacher_network: str | None = None
    teacher_width: float = 1.0
    teacher_taps: list[str] = field(default_factory=list)
    loss: str = ""
    num_vectors: int | None = None
    beta: float | None = None
    gradient: Literal["exact", "poster", "authors"] | None = None
    temperature: float | None = None
    grid: int | None = None
    nontarget_weight: float | None = None
    soft_target_weight: float | None = None

    def __post_init__(self) -> None:
        self.loss = self.loss or default_loss(self)

    def usual_values(self) -> dict[str, Any]:
        """See `DataConfig.usual_values`; here the defaults of the options that the loss reads."""
        of_loss = {**option_defaults(self.loss), **usual_weights(self.loss)}
        usual = {**super().usual_values(), **of_loss}
        return {name: value for name, value in usual.items() if hasattr(self, name)}

    def check(self) -> None:
        """Raise `ArgumentError` for the first invalid value."""
        super().check()
        if self.teacher_network is not None:
            require_network("teacher_network", self.teacher_network)
        if self.teacher_weights and not is_zoo(self.teacher):
            raise ArgumentError(
                "teacher_weights",
                expected="nothing beside a teacher that has its own weights",
                got=repr(self.teacher_weights),
                remedy="leave it out, or give a teacher timm:NAME, torchvision:NAME or hf:NAME",
            )
        require_positive("teacher_width", self.teacher_width)
        if self.soft_target_weight is not None:
            require_positive("soft_target_weight", self.soft_target_weight)
        require_read(self)


@dataclass(kw_only=True)
class CacheConfig(TeacherConfig):
    """Compute a teacher's knowledge of all training images once, and keep it on disk.

    Args:
        views: Random views of each image, 1 or more. A student sees one in each epoch, and starts
            again at the first after the last.
        views_seed: Seed of the views.
        dtype: Type of the numbers on disk, `float16` or `float32`. Tensors of at most 16 numbers
            per image are always float32.
        precision: Precision of the teacher, `float32`, `bf16`, or `auto` as for `train`.
            Decompositions are computed in float32 either way.
        batch_size: Images in a batch of the teacher.
        device: `auto`, `cpu` or `cuda`.
        resume: Check the store in `output`, and write what is missing or damaged.
    """

    views: int = 0
    views_seed: int = 0
    dtype: Literal["float16", "float32"] = "float16"
    precision: Literal["float32", "bf16", "auto"] = "float32"
    batch_size: int = 256
    device: Literal["auto", "cpu", "cuda"] = "auto"
    resume: bool = False

    def check(self) -> None:
        """Raise `ArgumentError` for the first invalid value."""
        super().check()
        if not self.teacher:
            raise ArgumentError(
                "teacher", expected="a trained network", got="nothing", remedy="give --teacher"
            )
        for name, least in (("views", 1), ("batch_size", 1), ("views_seed", 0)):
            require_count(name, getattr(self, name), least)
        if self.augmentation == "none" and self.views > 1:
            raise ArgumentError(
                "views",
                expected="1, since without augmentation all views are the same",
                got=self.views,
                remedy="give --views 1, or another --augmentation",
            )
