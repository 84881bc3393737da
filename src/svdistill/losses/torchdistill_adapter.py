"""Losses of the package torchdistill, as `torchdistill:NAME`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from svdistill.common import ArgumentError, nearest
from svdistill.linalg import to_working, working_dtype
from svdistill.losses.transfer import (
    Knowledge,
    TransferLoss,
    require_channels,
    require_match,
    require_taps,
)

PREFIX: Final = "torchdistill:"

LOGITS: Final = "logits"


@dataclass(frozen=True)
class Adapted:
    """Properties of a loss of torchdistill.

    Attributes:
        reads: `"taps"`, `"last tap"` or `"logits"`.
        options: its arguments without a default, as in its documentation's example.
        factor: on its value.
        relates_images: whether its value for a batch is not the mean over parts of the batch.
        compares_channels: whether both maps must have the same channels.
        compares_positions: whether both maps must have the same height and width.
    """

    reads: str
    options: Mapping[str, Any] = field(default_factory=dict)
    factor: float = 1.0
    relates_images: bool = False
    compares_channels: bool = False
    compares_positions: bool = False


# Without a hard loss, KDLoss and LogitStdKDLoss leave out the factor T^2.
_ADAPTED: Final[Mapping[str, Adapted]] = MappingProxyType(
    {
        "ATLoss": Adapted("taps", compares_positions=True),
        "FSPLoss": Adapted("taps", compares_channels=True),
        "AltActTransferLoss": Adapted(
            "taps",
            {"margin": 1.0, "reduction": "mean"},
            compares_channels=True,
            compares_positions=True,
        ),
        "ChSimLoss": Adapted("taps", relates_images=True, compares_channels=True),
        "AffinityLoss": Adapted("last tap", compares_channels=True, compares_positions=True),
        "PKTLoss": Adapted("last tap", relates_images=True),
        "RKDLoss": Adapted(
            "last tap",
            {"dist_factor": 1.0, "angle_factor": 2.0, "reduction": "mean"},
            relates_images=True,
        ),
        "SPKDLoss": Adapted("last tap", {"reduction": "batchmean"}, relates_images=True),
        "KDLoss": Adapted(LOGITS, {"temperature": 4.0, "alpha": 0.0, "beta": 1.0}, factor=16.0),
        "LogitStdKDLoss": Adapted(
            LOGITS, {"temperature": 2.0, "alpha": 0.0, "beta": 1.0}, factor=4.0
        ),
        "DISTLoss": Adapted(LOGITS, relates_images=True),
        "SKDInstanceLoss": Adapted(LOGITS),
        "SKDDirectionLoss": Adapted(LOGITS, relates_images=True),
    }
)

_MODULES: Final = "it needs modules that are trained beside the student"

_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("FTLoss", "VIDLoss", "CCKDLoss", "CRDLoss", "AuxSSKDLoss", "SSKDLoss", "PADL2Loss"),
            _MODULES,
        ),
        **dict.fromkeys(("HierarchicalContextLoss", "KTALoss", "SRDLoss"), _MODULES),
        "DISTPlusLoss": "it adds the correlation of channels, which training would make smaller",
        "RegularizationLoss": "it has no teacher",
    }
)


@dataclass(frozen=True)
class TorchdistillKnowledge(Knowledge):
    """The teacher's maps [B, D, H, W], and its logits; either may be empty."""

    features: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]


class TorchdistillLoss(TransferLoss):
    """A loss of torchdistill, with svdistill's clip, pairing of taps and knowledge store.

    Its options keep torchdistill's defaults. The knowledge is the teacher's maps or logits, whole,
    since torchdistill's losses have no half that sees the teacher alone.

    Args:
        name: the class in torchdistill, such as `"ATLoss"`.

    Raises:
        ArgumentError: torchdistill is not installed, or the loss is unknown or cannot be adapted;
            in use, for maps of student and teacher that the loss cannot compare.

    Source: torchdistill, https://github.com/yoshitomo-matsubara/torchdistill, `mid_level.py`.
    """

    knowledge_type = TorchdistillKnowledge

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.adapted = _adapted(name)
        _peer(name)
        self.needs_logits = self.adapted.reads == LOGITS
        self.needs_taps = not self.needs_logits
        self.compares_channels = self.adapted.compares_channels
        self.relates_images = self.adapted.relates_images

    @torch.no_grad()
    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> TorchdistillKnowledge:
        """The maps or the logits."""
        if self.needs_logits:
            assert logits is not None
            return TorchdistillKnowledge((), (logits.detach().to(working_dtype(logits.dtype)),))
        return TorchdistillKnowledge(
            tuple(tap.detach().to(working_dtype(tap.dtype)) for tap in self._maps(features)), ()
        )

    def can_read(self, knowledge: Knowledge) -> bool:
        """Whether a knowledge holds the maps or the logits that this loss reads."""
        return isinstance(knowledge, TorchdistillKnowledge) and bool(
            knowledge.logits if self.needs_logits else knowledge.features
        )

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: TorchdistillKnowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a student's features or logits against a teacher's knowledge."""
        if self.needs_logits:
            student, (teacher,) = to_working(logits), knowledge.logits
            shapes = tuple(student.shape), tuple(teacher.shape)
            require_match("logits", *shapes, remedy="give both the same classes")
            sides = {LOGITS: student}, {LOGITS: teacher.to(student.dtype)}
        else:
            maps = [to_working(feature) for feature in self._maps(features)]
            self._require_comparable(maps, knowledge.features)
            taught = [teacher.to(maps[0].dtype) for teacher in knowledge.features]
            sides = _by_path(maps), _by_path(taught)
        outputs = ({path: {"output": tensor} for path, tensor in side.items()} for side in sides)
        value: Tensor = self._built(len(sides[0]))(*outputs)
        return self.adapted.factor * value

    def _maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The taps that are read as [B, D, H, W]; tokens [B, T, D] are [B, D, T, 1]."""
        require_taps(features, at_least=2 if self.name == "FSPLoss" else 1)
        maps = []
        for feature in features[-1:] if self.adapted.reads == "last tap" else features:
            if feature.ndim == 3:
                feature = feature.mT
            missing = (1,) * (4 - feature.ndim)
            feature = feature.reshape(*feature.shape, *missing)
            feature = feature.flatten(2, -2).contiguous()  # most losses call `view`
            maps.append(feature.flatten(1) if self.name == "PKTLoss" else feature)
        return maps

    def _require_comparable(self, maps: list[Tensor], taught: tuple[Tensor, ...]) -> None:
        require_match("number of taps", len(maps), len(taught), "tap the same stages")
        for tap, (student, teacher) in enumerate(zip(maps, taught, strict=True)):
            images = f"images at tap {tap}"
            require_match(images, len(student), len(teacher), "use one batch for both")
            if self.compares_channels:
                require_channels(f"tap {tap}", student.shape[1], teacher.shape[1])
            if self.adapted.compares_positions:
                sides = tuple(student.shape[2:]), tuple(teacher.shape[2:])
                require_match(f"positions at tap {tap}", *sides, remedy="tap stages of one size")

    def _built(self, taps: int) -> Callable[..., Tensor]:
        """Torchdistill's loss, for a number of taps."""
        peer = _peer(self.name)
        paths = [LOGITS] if self.needs_logits else [f"tap{place}" for place in range(taps)]
        each = [{"io": "output", "path": path} for path in paths]
        tapped = {str(i): {"student": tap, "teacher": tap} for i, tap in enumerate(each)}
        first_second = {
            str(i): {
                f"{network}_{place}": tap
                for network in ("student", "teacher")
                for place, tap in (("first", front), ("second", back))
            }
            for i, (front, back) in enumerate(pairwise(each))
        }
        given = {
            "at_pairs": tapped,
            "feature_pairs": tapped,
            "fsp_pairs": first_second,
            **{f"{network}_output_path": paths[-1] for network in ("student", "teacher")},
            **{f"{network}_module_path": paths[-1] for network in ("student", "teacher")},
            **{f"{network}_module_io": "output" for network in ("student", "teacher")},
        }
        parameters = inspect.signature(peer).parameters
        chosen = {name: value for name, value in given.items() if name in parameters}
        built: Callable[..., Tensor] = peer(**chosen, **self.adapted.options)
        return built

    def extra_repr(self) -> str:
        """The name, for ``print(loss)``."""
        return self.name


def _by_path(maps: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"tap{place}": feature for place, feature in enumerate(maps)}


def _adapted(name: str) -> Adapted:
    if name in _ADAPTED:
        return _ADAPTED[name]
    if name in _REFUSED:
        raise ArgumentError(
            "loss",
            expected="a loss of torchdistill that compares taps or logits of two networks",
            got=f"'{PREFIX}{name}': {_REFUSED[name]}",
            remedy=f"choose one of {', '.join(_ADAPTED)}",
        )
    close = nearest(name, _ADAPTED)
    raise ArgumentError(
        "loss",
        expected=f"one of {', '.join(PREFIX + known for known in _ADAPTED)}",
        got=repr(PREFIX + name),
        remedy=close if close.startswith("did") else "choose one of these",
    )


def _peer(name: str) -> Callable[..., Callable[..., Tensor]]:
    """Torchdistill's class. Only its module of losses is imported: others need torchvision."""
    try:
        module = importlib.import_module("torchdistill.losses.mid_level")
    except ImportError as error:
        raise ArgumentError(
            "loss",
            expected=f"the package torchdistill, for {PREFIX}{name}",
            got=str(error),
            remedy="pip install --no-deps torchdistill, or choose another loss",
        ) from error
    found: Callable[..., Callable[..., Tensor]] | None = getattr(module, name, None)
    if found is None:
        raise ArgumentError(
            "loss",
            expected=f"a release of torchdistill that has {name}",
            got="one that does not",
            remedy="install torchdistill 1.1.5 or later",
        )
    return found
