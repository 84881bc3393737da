"""The ways to train a student, as the tables list them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from svdistill.losses import loss_specs


@dataclass(frozen=True)
class Method:
    """One way to train a student.

    Attributes:
        name: as `--method` and the run's folder say it.
        options: fields of `DistillConfig` that differ from the defaults; a student that is trained
            alone has none that are of use.
        stages: 2 to train by the transfer alone first, and then by the task alone.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    stages: int = 1

    @property
    def needs_teacher(self) -> bool:
        """Whether anything is transferred."""
        return "loss" in self.options


SVD: Final = "svd"


def _svd(name: str, stages: int = 1, clip: str = "norm", **options: Any) -> Method:
    """The seed's own way, but for these options."""
    return Method(name, {"loss": SVD, "clip": clip, **options}, stages)


# Usual for soft targets: Hinton et al., 2015.
SOFT_TARGET: Final = {
    "loss": "soft_target",
    "clip": "none",
    "task_weight": 0.1,
    "transfer_weight": 0.9,
}
# The same weights, and beside them, clipped, the transfer of SVD.
BESIDE_SOFT: Final = {"task_weight": 0.1, "soft_target_weight": 0.9}

# Positions instead of channels, with as many vectors as the loss takes by itself.
POSITIONS: Final[dict[str, Any]] = {
    "loss": "position_svd",
    "clip": "amortised",
    **loss_specs("position_svd")[0].options,
}

FSP: Final = {"loss": "fsp", "clip": "norm"}

ALONE: Final = Method("student")
# The seed's table, and what we make of it: another clip, soft targets beside, and positions.
CORE: Final = (
    ALONE,
    Method("soft-target", SOFT_TARGET),
    Method("fsp-2-stage", FSP, stages=2),
    _svd("svd"),
    _svd("svd-amortised", clip="amortised"),
    Method("svd-soft-target", {"loss": "svd+soft_target", "clip": "amortised", **BESIDE_SOFT}),
    Method("position-svd", POSITIONS),
    Method(
        "position-svd-soft-target",
        {**POSITIONS, "loss": "position_svd+soft_target", **BESIDE_SOFT},
    ),
)
STAGES: Final = (
    Method("fsp", FSP),
    _svd("svd-2-stage", stages=2),
)
VARIANTS: Final = (
    Method("svd-norm-soft-target", {"loss": "svd+soft_target", "clip": "norm", **BESIDE_SOFT}),
    _svd("svd-poster-clip", clip="poster"),
    _svd("svd-poster-gradient", gradient="poster"),
    _svd("svd-authors-gradient", gradient="authors"),
    _svd("svd-amortised-poster-gradient", clip="amortised", gradient="poster"),
    _svd("svd-amortised-authors-gradient", clip="amortised", gradient="authors"),
)
VECTORS: Final = (1, 2, 4, 8, 16)
METHODS: Final = (*CORE, *STAGES, *VARIANTS)


def every_method() -> tuple[Method, ...]:
    """All methods, those with more vectors among them."""
    return (*METHODS, *(method for method in vector_methods() if method not in METHODS))


def vector_methods() -> tuple[Method, ...]:
    """The seed's method and ours, with each number of vectors."""
    taught = [method for method in CORE if method.options.get("loss") == SVD]
    return tuple(with_vectors(method, count) for method in taught for count in VECTORS)


def method_of_loss(loss: str) -> Method:
    """A loss as `svdistill distill` takes it, with all else as it is by default.

    Example:
        >>> method_of_loss("fsp+svdistill.losses:PositionSVDLoss").name
        'fsp-svdistill.losses.PositionSVDLoss'
    """
    loss_specs(loss)  # raises for a name that is misspelt
    return Method(loss.replace("+", "-").replace(":", "."), {"loss": loss})


def with_vectors(method: Method, count: int) -> Method:
    """The same method with so many singular vectors; one vector is the method itself."""
    if count == 1:
        return method
    options = {**method.options, "num_vectors": count}
    return replace(method, name=f"{method.name}-k{count}", options=options)
