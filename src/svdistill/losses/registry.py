"""Transfer losses by name: one entry each, and nothing else knows a name, a default or a title."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Protocol

from svdistill.common import ArgumentError, SVDistillError, import_attribute, nearest
from svdistill.losses.attention_transfer import AttentionTransferLoss
from svdistill.losses.dist import DISTLoss
from svdistill.losses.dkd import DKDLoss
from svdistill.losses.fsp import FSPLoss
from svdistill.losses.position_gram import CosineAffinityLoss, PositionGramLoss
from svdistill.losses.position_svd import PositionSVDLoss
from svdistill.losses.similarity_preserving import SimilarityPreservingLoss
from svdistill.losses.soft_target import LogitStandardizationLoss, SoftTargetLoss
from svdistill.losses.svd import SVDLoss
from svdistill.losses.torchdistill_adapter import PREFIX as TORCHDISTILL, TorchdistillLoss
from svdistill.losses.transfer import TransferLoss

# What a configuration says of a loss that was given as a Python object, before its class's name.
OBJECT_PREFIX: Final = "object:"

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class LossSpec:
    """One way to teach, as the command line, configurations, stores and reports know it.

    Attributes:
        name: as `--loss` takes it.
        build: makes the loss from its options, given by keyword.
        title: as tables call it.
        options: options of a configuration that it reads, and what they are by default.
        clipped: whether its gradient is bounded where it is added to another loss. Where it is
            not, it counts as part of the task, as a further loss on logits does.
        weight: option of a configuration that multiplies it where it counts as part of the task.
        stages: stages of training in its paper; tables say so where a run has one instead of two.
        compact: whether its knowledge of an image is small enough to keep that of all on disk.

    Example:
        >>> loss_specs("svd")[0].title
        'SVD'
    """

    name: str
    build: Callable[..., TransferLoss]
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    clipped: bool = True
    weight: str = ""
    stages: int = 1
    compact: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """What it reads, of `taps`, `logits` and `labels`."""
        loss, kinds = self.build(**self.options), ("taps", "logits", "labels")
        return frozenset(kind for kind in kinds if getattr(loss, f"needs_{kind}"))


_SPECS: Final[dict[str, LossSpec]] = {
    spec.name: spec
    for spec in (
        LossSpec(
            "svd",
            SVDLoss,
            "SVD",
            {"num_vectors": 1, "beta": 8.0, "gradient": "exact"},
            compact=True,
        ),
        LossSpec("fsp", FSPLoss, "FSP", stages=2),
        LossSpec(
            "position_svd",
            PositionSVDLoss,
            "position SVD",
            {"num_vectors": 4, "grid": 0},
            compact=True,
        ),
        LossSpec(
            "soft_target",
            SoftTargetLoss,
            "soft target",
            {"temperature": 4.0},
            clipped=False,
            weight="soft_target_weight",
            compact=True,
        ),
        LossSpec("position_gram", PositionGramLoss, "Gram of positions", {"grid": 8}),
        LossSpec("cosine", CosineAffinityLoss, "cosines of positions", {"grid": 8}),
        LossSpec("at", AttentionTransferLoss, "attention transfer"),
        *(
            LossSpec(
                name,
                build,
                title,
                options,
                clipped=False,
                weight="soft_target_weight",
                compact=True,
            )
            for name, build, title, options in (
                ("dkd", DKDLoss, "DKD", {"temperature": 4.0, "nontarget_weight": 8.0}),
                ("dist", DISTLoss, "DIST", {"temperature": 4.0}),
                ("lskd", LogitStandardizationLoss, "logit standardization", {"temperature": 2.0}),
            )
        ),
        LossSpec("sp", SimilarityPreservingLoss, "similarity of images"),
    )
}

# The options that a configuration has; what it says where its loss does not read them.
OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {**_SPECS["svd"].options, **_SPECS["soft_target"].options, "grid": 0, "nontarget_weight": 8.0}
)

DEFAULT_LOSS: Final = "position_svd+soft_target"


class LossOptions(Protocol):
    """A configuration: the loss, and a field for every option."""

    loss: str


def register(spec: LossSpec) -> None:
    """Let `--loss` and every configuration of this process know a loss by its name.

    Raises:
        ArgumentError: a name that is taken or holds `+` or `:`, an option that no configuration
            has, or a loss that counts as part of the task and reads feature maps.

    Example:
        >>> from svdistill.losses import FSPLoss
        >>> register(LossSpec("svd", FSPLoss, "another"))
        Traceback (most recent call last):
        svdistill.common.errors.ArgumentError: name: expected a loss's name that is not taken, \
got 'svd'; choose another
    """
    if not spec.name.isidentifier():
        raise ArgumentError(
            "name",
            expected="letters, digits and underscores",
            got=repr(spec.name),
            remedy="choose such a name",
        )
    if _SPECS.get(spec.name, spec) != spec:
        raise ArgumentError(
            "name",
            expected="a loss's name that is not taken",
            got=repr(spec.name),
            remedy="choose another",
        )
    for option in spec.options:
        if option not in OPTIONS:
            raise ArgumentError(
                f"options of {spec.name}",
                expected=f"some of {', '.join(OPTIONS)}, which a configuration has",
                got=repr(option),
                remedy="let build set it",
            )
    if not spec.clipped and "taps" in spec.needs:
        raise ArgumentError(
            f"clipped of {spec.name}",
            expected="True for a loss that reads feature maps",
            got=False,
            remedy="set needs_taps = False in its class if it reads logits alone",
        )
    _SPECS[spec.name] = spec


def loss_names() -> tuple[str, ...]:
    """Names of all registered losses.

    Example:
        >>> "svd" in loss_names()
        True
    """
    return tuple(_SPECS)


def loss_specs(loss: str) -> tuple[LossSpec, ...]:
    """The entries of a loss or of a sum of losses; the user's own code is imported.

    Args:
        loss: names of registered losses and `module:Class`, joined by `+`. A class of the user's
            own is built without arguments; a parameter of it that is named like an option of a
            configuration gets that option.

    Raises:
        ArgumentError: a name that is not known, code that cannot be imported or is no
            `TransferLoss`, or one loss twice.

    Example:
        >>> [spec.name for spec in loss_specs("fsp+soft_target")]
        ['fsp', 'soft_target']
    """
    names = _names(loss)
    return tuple(
        _spec_of_code(name) if is_own(name) else _registered(name, whole=loss) for name in names
    )


def titles(loss: str) -> tuple[str, ...]:
    """What tables call the losses of a sum; nothing is imported, and any text has a title.

    Example:
        >>> titles("svd+soft_target"), titles("my_package.losses:HintLoss")
        (('SVD', 'soft target'), ('HintLoss',))
    """
    return tuple(
        _SPECS[name].title if name in _SPECS else name.rpartition(":")[2] or name
        for name in _split(loss)
    )


def registered_specs(loss: str) -> tuple[LossSpec, ...]:
    """The entries of those losses of a sum that are registered; nothing is imported."""
    return tuple(_SPECS[name] for name in _split(loss) if name in _SPECS)


def reads(loss: str, option: str) -> bool:
    """Whether a registered loss reads an option, or any of a sum; nothing is imported.

    Example:
        >>> reads("position_svd+soft_target", "num_vectors"), reads("fsp", "num_vectors")
        (True, False)
    """
    return any(option in spec.options for spec in registered_specs(loss))


def may_read(loss: str, option: str) -> bool:
    """The same, but that a loss of the user's own code, which is not imported, may read any.

    Example:
        >>> may_read("my_package.losses:HintLoss", "beta"), may_read("fsp", "beta")
        (True, False)
    """
    own = (is_own(name) and not name.startswith(OBJECT_PREFIX) for name in _split(loss))
    return any(own) or reads(loss, option)


def is_own(loss: str) -> bool:
    """Whether a loss is of the user's own code, or any of a sum.

    Example:
        >>> is_own("my_package.losses:HintLoss"), is_own("svd+soft_target")
        (True, False)
    """
    return ":" in loss


def is_imported(loss: str) -> bool:
    """Whether no code need be run to build a loss, since this process has imported it."""
    return all(not is_own(name) or name.partition(":")[0] in sys.modules for name in _split(loss))


def option_defaults(loss: str) -> dict[str, Any]:
    """What each option of a configuration is by default, with this loss.

    Example:
        >>> option_defaults("position_svd+soft_target")["num_vectors"]
        4
    """
    read = {name: value for spec in loss_specs(loss) for name, value in spec.options.items()}
    return {**OPTIONS, **read}


def require_read(config: LossOptions) -> None:
    """Raise `ArgumentError` for an option that was set and that the loss does not read."""
    specs = loss_specs(config.loss)
    read = {option for spec in specs for option in spec.options}
    read |= {spec.weight for spec in added_to_task(specs)}
    for option, usual in _usual_values().items():
        value = getattr(config, option)
        if option in read or value in usual:
            continue
        readers = [spec.name for spec in _SPECS.values() if option in spec.options]
        added = [spec.name for spec in _SPECS.values() if option == spec.weight]
        named = " or ".join(readers or added) + (" beside another" if added else "")
        raise ArgumentError(
            option,
            expected=f"nothing beside --loss {config.loss}, which does not read it",
            got=repr(value),
            remedy=f"leave it out, or choose a loss that does: {named} reads it",
        )


def added_to_task(specs: tuple[LossSpec, ...]) -> tuple[LossSpec, ...]:
    """Those of a sum's entries that count as part of the task: not clipped, beside one that is."""
    if not any(spec.clipped for spec in specs):
        return ()
    return tuple(spec for spec in specs if not spec.clipped)


def build_loss(spec: LossSpec, config: LossOptions) -> TransferLoss:
    """Build a loss with the options that a configuration has for it."""
    return spec.build(**{option: getattr(config, option) for option in spec.options})


def losses_text() -> str:
    """A line for each registered loss: name, title, and the options that it reads."""
    lines = []
    for spec in _SPECS.values():
        read = ", ".join(f"{option} {value}" for option, value in spec.options.items())
        lines.append(f"  {spec.name:14}{spec.title}" + (f" ({read})" if read else "") + "\n")
    return "".join(lines)


def object_name(loss: TransferLoss) -> str:
    """What a configuration says of a loss that was given as an object.

    Raises:
        ArgumentError: it is no `TransferLoss`.
    """
    if not isinstance(loss, TransferLoss):
        raise ArgumentError(
            "loss",
            expected="a TransferLoss",
            got=repr(loss),
            remedy="give an object such as SVDLoss(), or a name in the configuration",
        )
    return OBJECT_PREFIX + type(loss).__name__


def _usual_values() -> dict[str, list[Any]]:
    """Of every option: what it is by default with any loss. Such a value may be left over."""
    usual: dict[str, list[Any]] = {option: [value] for option, value in OPTIONS.items()}
    for spec in _SPECS.values():
        for option, value in spec.options.items():
            usual[option].append(value)
        if spec.weight:
            usual[spec.weight] = [1.0]
    return usual


def _split(loss: str) -> list[str]:
    return [name.strip() for name in str(loss).split("+")]


def _names(loss: str) -> list[str]:
    names = _split(loss)
    twice = [name for name in names if names.count(name) > 1 and name]
    if twice:
        raise ArgumentError(
            "loss",
            expected="each loss once",
            got=repr(loss),
            remedy=f"leave out the second {twice[0]!r}",
        )
    return names


def _registered(name: str, whole: str) -> LossSpec:
    if name in _SPECS:
        return _SPECS[name]
    close = nearest(name.lower(), _SPECS)
    raise ArgumentError(
        "loss",
        expected=f"one of {', '.join(map(repr, _SPECS))}, module:Class of your own code, or "
        "several, joined by '+'",
        got=repr(name) if name == whole else f"{name!r} in {whole!r}",
        remedy=close if close.startswith("did") else "choose one of these",
    )


def _spec_of_code(name: str) -> LossSpec:
    """The entry of a class, or of a function that builds a loss, of the user's own code."""
    if name.startswith(OBJECT_PREFIX):
        return LossSpec(name, _not_given, name.removeprefix(OBJECT_PREFIX))
    if name.startswith(TORCHDISTILL):
        return _spec_of_torchdistill(name.removeprefix(TORCHDISTILL))
    found = import_attribute(name, "loss")
    if not callable(found) or isinstance(found, TransferLoss):
        raise ArgumentError(
            "loss",
            expected="a class that is a TransferLoss, or a function that returns one",
            got=type(found).__name__,
            remedy=f"let {name} be one, or give the object to svdistill.distill as loss=",
        )

    def build(**options: Any) -> TransferLoss:
        try:
            loss = found(**options)
        except SVDistillError:
            raise
        except Exception as error:  # the user's class may fail in any way
            raise ArgumentError(
                "loss",
                expected=f"{name} to be built from {' and '.join(options) or 'nothing'}",
                got=f"{type(error).__name__}: {error}",
                remedy=f"of its parameters, only {', '.join(OPTIONS)} are given",
            ) from error
        if not isinstance(loss, TransferLoss):
            raise ArgumentError(
                "loss",
                expected="a class that is a TransferLoss, or a function that returns one",
                got=f"{name}, which makes {type(loss).__name__}",
                remedy="derive it from svdistill.TransferLoss",
            )
        return loss

    return LossSpec(name, build, name.rpartition(":")[2], _options_of(found))


def _spec_of_torchdistill(name: str) -> LossSpec:
    loss = TorchdistillLoss(name)
    weight = "soft_target_weight" if loss.needs_logits else ""
    return LossSpec(
        TORCHDISTILL + name,
        partial(TorchdistillLoss, name),
        f"torchdistill's {name}",
        clipped=loss.needs_taps,
        weight=weight,
    )


def _options_of(build: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that are named like options, with their own defaults where they have any."""
    try:
        parameters = inspect.signature(build).parameters
    except ValueError:  # some of C have none
        return {}
    return {
        name: usual
        if parameters[name].default is inspect.Parameter.empty
        else parameters[name].default
        for name, usual in OPTIONS.items()
        if name in parameters
    }


def _not_given() -> TransferLoss:
    raise ArgumentError(
        "loss",
        expected="the object itself, since the configuration was made with one",
        got="nothing",
        remedy="give it to svdistill.distill as loss=, or name it module:Class",
    )
