"""The registry of transfer losses: the name, title, options and defaults of each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from svdistill.common import ArgumentError, launched_size, nearest
from svdistill.losses.attention_transfer import AttentionTransferLoss
from svdistill.losses.dist import DISTLoss
from svdistill.losses.dkd import DKDLoss
from svdistill.losses.fsp import FSPLoss
from svdistill.losses.position_gram import CosineAffinityLoss, PositionGramLoss
from svdistill.losses.position_svd import PositionSVDLoss
from svdistill.losses.similarity_preserving import SimilarityPreservingLoss
from svdistill.losses.soft_target import LogitStandardizationLoss, SoftTargetLoss
from svdistill.losses.spec import (
    LOGIT_WEIGHT,
    OBJECT_PREFIX,
    LossSpec,
    added_to_task,
    distinct_names,
    logit_spec,
    spec_of_code,
    split_sum,
    usual_clip,
)
from svdistill.losses.svd import SVDLoss
from svdistill.losses.transfer import TransferLoss

# The options of a configuration, with their values for losses that define no default of their own.
OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "num_vectors": 1,
        "beta": 8.0,
        "gradient": "exact",
        "temperature": 4.0,
        "grid": 0,
        "nontarget_weight": 8.0,
    }
)

# Weights of the cross-entropy and of a soft-target loss without another loss, as in its paper.
HINTON: Final = (0.1, 0.9)

# The same weights if a loss on feature maps is added; chosen by experiments with position losses.
BESIDE: Final = (1.0, 3.0)

# The fields of a configuration that stay None where the loss does not read them.
OPTION_NAMES: Final = (*OPTIONS, LOGIT_WEIGHT)

_OF_SVD: Final = {name: OPTIONS[name] for name in ("num_vectors", "beta", "gradient")}

_OF_POSITIONS: Final = {"num_vectors": 4, "grid": 0}

_SPECS: Final[dict[str, LossSpec]] = {
    spec.name: spec
    for spec in (
        LossSpec("svd", SVDLoss, "SVD", _OF_SVD, compact=True),
        LossSpec("fsp", FSPLoss, "FSP", stages=2),
        LossSpec("position_svd", PositionSVDLoss, "position SVD", _OF_POSITIONS, compact=True),
        logit_spec(
            *("soft_target", SoftTargetLoss, "soft target", {"temperature": 4.0}),
            usual_weights=HINTON,
            weights_beside=BESIDE,
        ),
        LossSpec(
            "position_gram", PositionGramLoss, "Gram of positions", {"grid": 4}, largest_grid=8
        ),
        LossSpec(
            *("cosine", CosineAffinityLoss, "cosines of positions", {"grid": 8}),
            largest_grid=8,
            stored_as="position_gram",  # of whose Gram matrices the cosines are computed
        ),
        LossSpec("at", AttentionTransferLoss, "attention transfer"),
        LossSpec("sp", SimilarityPreservingLoss, "similarity of images"),
        logit_spec("dkd", DKDLoss, "DKD", {"temperature": 4.0, "nontarget_weight": 8.0}),
        logit_spec("dist", DISTLoss, "DIST", {"temperature": 4.0}),
        # Its own factor of 9 is in the loss.
        logit_spec(
            *("lskd", LogitStandardizationLoss, "standardised logits", {"temperature": 2.0}),
            usual_weights=(0.1, 1.0),
        ),
    )
}

DEFAULT_LOSS: Final = "position_gram+dist"

# The default where a batch is processed in parts, since DIST needs the images of a whole batch.
DEFAULT_IN_PARTS: Final = "position_gram+soft_target"


class LossOptions(Protocol):
    """A configuration: the loss, and a field for every option, which is None if it is not given."""

    loss: str


def register(spec: LossSpec) -> None:
    """Register a loss, so that `--loss` and configurations in this process accept its name.

    Raises:
        ArgumentError: the name is taken or not an identifier, an option is not one of `OPTIONS`, or
            the loss counts as part of the task (`clipped` is False) but reads feature maps.

    Example:
        >>> from svdistill.losses import FSPLoss
        >>> register(LossSpec("svd", FSPLoss, "another"))
        Traceback (most recent call last):
        svdistill.common.errors.ArgumentError: name: expected a loss's name that is not taken, \
got 'svd'; choose another
    """
    allowed = "letters, digits and underscores"
    if spec.name.isidentifier():
        allowed = "a loss's name that is not taken"
    if not spec.name.isidentifier() or _SPECS.get(spec.name, spec) != spec:
        got = repr(spec.name)
        raise ArgumentError("name", expected=allowed, got=got, remedy="choose another")
    if unknown := [option for option in spec.options if option not in OPTIONS]:
        raise ArgumentError(
            f"options of {spec.name}",
            expected=f"some of {', '.join(OPTIONS)}, which a configuration has",
            got=repr(unknown[0]),
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


def losses_without_logits() -> tuple[str, ...]:
    """Names of the registered losses that read no logits, so that classes may differ."""
    return tuple(name for name, spec in _SPECS.items() if "logits" not in spec.needs)


def loss_specs(loss: str) -> tuple[LossSpec, ...]:
    """The specifications of a loss or of a sum of losses; the user's own code is imported.

    Args:
        loss: names of registered losses, `module:Class` and `torchdistill:NAME`, joined by `+`.

    Raises:
        ArgumentError: a name is not known, code cannot be imported or is not a `TransferLoss`, or a
            loss is named twice.

    Example:
        >>> [spec.name for spec in loss_specs("fsp+soft_target")]
        ['fsp', 'soft_target']
    """
    names = distinct_names(loss)
    return tuple(
        spec_of_code(name, OPTIONS) if _is_own(name) else _registered(name, whole=loss)
        for name in names
    )


def titles(loss: str) -> tuple[str, ...]:
    """The titles of the losses of a sum, for tables; imports nothing, and accepts any text.

    Example:
        >>> titles("svd+soft_target"), titles("my_package.losses:HintLoss")
        (('SVD', 'soft target'), ('HintLoss',))
    """
    return tuple(
        _SPECS[name].title if name in _SPECS else name.rpartition(":")[2] or name
        for name in split_sum(loss)
    )


def registered_specs(loss: str) -> tuple[LossSpec, ...]:
    """The specifications of the registered losses in a sum; nothing is imported."""
    return tuple(_SPECS[name] for name in split_sum(loss) if name in _SPECS)


def reads(loss: str, option: str) -> bool:
    """Whether a registered loss, or any one in a sum, reads an option; nothing is imported."""
    return any(option in spec.options for spec in registered_specs(loss))


def reads_logits(loss: str) -> bool:
    """Whether a registered loss, or any one in a sum, reads logits; nothing is imported."""
    return any("logits" in spec.needs for spec in registered_specs(loss))


def unread_options(loss: str) -> tuple[str, ...]:
    """The options of a configuration that neither a loss nor any loss of a sum reads.

    Nothing is imported, so the result is empty if a loss is not registered, such as the user's own.

    Example:
        >>> unread_options("dkd"), unread_options("my_package.losses:HintLoss")
        (('num_vectors', 'beta', 'gradient', 'grid', 'soft_target_weight'), ())
    """
    if all(name in _SPECS or name.startswith(OBJECT_PREFIX) for name in split_sum(loss)):
        return _unread(registered_specs(loss))
    return ()


def _is_own(loss: str) -> bool:
    """Whether a name refers to code outside of the registry, or to a loss given as an object."""
    return ":" in loss


def option_defaults(loss: str) -> dict[str, Any]:
    """The options that a loss reads, with their defaults.

    Options for which the losses of a sum have different defaults are left out: each loss is built
    with its own.

    Example:
        >>> option_defaults("position_svd+soft_target")
        {'num_vectors': 4, 'grid': 0, 'temperature': 4.0}
        >>> option_defaults("position_svd+svd")
        {'grid': 0, 'beta': 8.0, 'gradient': 'exact'}
    """
    specs = loss_specs(loss)
    defaults = {name: value for spec in specs for name, value in spec.options.items()}
    return {
        name: value
        for name, value in defaults.items()
        if all(spec.options.get(name, value) == value for spec in specs)
    }


def is_compact(loss: str, options: Mapping[str, Any]) -> bool:
    """Whether the knowledge of a loss with these options is small enough to store for all images.

    Example:
        >>> is_compact("position_gram", {"grid": 0}), is_compact("position_gram+soft_target", {})
        (False, True)
    """

    def is_small(spec: LossSpec) -> bool:
        given = options.get("grid")
        grid = spec.options.get("grid", 0) if given is None else given
        return spec.compact or 0 < grid <= spec.largest_grid

    return all(map(is_small, loss_specs(loss)))


def usual_weights(loss: str) -> dict[str, Any]:
    """The default weights and clip of a configuration with this loss.

    A loss on logits determines the weights, whether used alone or with a loss on feature maps; of
    several, the first one does. Losses on logits alone are not clipped. The result has a
    `soft_target_weight` only if that option is read.

    Example:
        >>> usual_weights("svd")
        {'task_weight': 1.0, 'transfer_weight': 1.0, 'clip': 'amortised'}
        >>> usual_weights("svd+soft_target")
        {'task_weight': 1.0, 'transfer_weight': 1.0, 'soft_target_weight': 3.0, 'clip': 'amortised'}
        >>> usual_weights("soft_target")
        {'task_weight': 0.1, 'transfer_weight': 0.9, 'clip': 'none'}
    """
    given = loss.startswith(OBJECT_PREFIX)
    of_object = _by_class().get(loss.removeprefix(OBJECT_PREFIX)) if given else None
    specs = loss_specs(loss) if of_object is None else (of_object,)
    of_logits = [spec for spec in specs if not spec.clipped]
    alone = len(of_logits) == len(specs)
    weights = [spec.usual_weights if alone else spec.weights_beside for spec in of_logits]
    task, own = weights[0] if weights else (1.0, 1.0)
    added = {} if alone else {spec.weight: own for spec in of_logits if spec.weight}
    return {
        "task_weight": task,
        "transfer_weight": own if alone else 1.0,
        **added,
        "clip": usual_clip(needs_taps=not alone),
    }


def require_read(config: LossOptions) -> None:
    """Raise `ArgumentError` if the configuration sets an option that its loss does not read."""
    for option in _unread(loss_specs(config.loss)):
        value = getattr(config, option)
        if value is None:
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


def _unread(specs: tuple[LossSpec, ...]) -> tuple[str, ...]:
    """The options that none of the losses of a sum reads."""
    read = {option for spec in specs for option in spec.options}
    read |= {spec.weight for spec in added_to_task(specs)}
    return tuple(option for option in OPTION_NAMES if option not in read)


def default_loss(config: object) -> str:
    """The loss of a configuration that does not name one.

    It is `DEFAULT_LOSS`, or `DEFAULT_IN_PARTS` where batches are processed in parts.
    """
    return DEFAULT_IN_PARTS if _in_parts(config) else DEFAULT_LOSS


def _in_parts(config: object) -> bool:
    """Whether batches are processed in parts: by several processes, or with `accumulate`."""
    return getattr(config, "accumulate", 1) != 1 or launched_size() != 1


def require_whole_batches(config: LossOptions, given: TransferLoss | None = None) -> None:
    """Raise `ArgumentError` if a loss relates images and batches are processed in parts.

    Args:
        config: the configuration, with the names and options of the losses.
        given: the loss itself, if it was given as an object instead of by name.
    """
    if not _in_parts(config):
        return
    specs = [spec for spec in loss_specs(config.loss) if not spec.name.startswith(OBJECT_PREFIX)]
    losses = {spec.name: build_loss(spec, config) for spec in specs}
    if given is not None:
        losses = {config.loss: given}
    for name, loss in losses.items():
        if loss.relates_images:
            raise ArgumentError(
                "loss",
                expected="losses that relate no images, beside accumulate or several processes",
                got=repr(name),
                remedy="train in one process and without accumulate, or choose another loss: "
                f"{DEFAULT_IN_PARTS} is the default there",
            )


def build_loss(spec: LossSpec, config: LossOptions) -> TransferLoss:
    """Build a loss with the options that a configuration sets, and defaults for the others."""
    given = {option: getattr(config, option) for option in spec.options}
    return spec.build(**{**spec.options, **{k: v for k, v in given.items() if v is not None}})


def losses_text() -> str:
    """A text with one line for each registered loss: name, title, and the options that it reads."""
    lines = []
    for spec in _SPECS.values():
        read = ", ".join(f"{option} {value}" for option, value in spec.options.items())
        lines.append(f"  {spec.name:14}{spec.title}" + (f" ({read})" if read else "") + "\n")
    return "".join(lines)


def object_name(loss: TransferLoss) -> str:
    """The name that a configuration records for a loss that was given as an object.

    Raises:
        ArgumentError: the object is not a `TransferLoss`.
    """
    if not isinstance(loss, TransferLoss):
        raise ArgumentError(
            "loss",
            expected="a TransferLoss",
            got=repr(loss),
            remedy="give an object such as SVDLoss(), or a name in the configuration",
        )
    kind = type(loss)
    registered = _by_class().get(kind.__name__)
    # Another class of the same name does not have the registered one's weights.
    alike = registered is not None and registered.build is not kind
    return OBJECT_PREFIX + (f"{kind.__module__}." if alike else "") + kind.__name__


def _by_class() -> dict[str, LossSpec]:
    """The specifications of the registered losses, by the names of their classes."""
    return {getattr(spec.build, "__name__", ""): spec for spec in _SPECS.values()}


def _registered(name: str, whole: str) -> LossSpec:
    if name in _SPECS:
        return _SPECS[name]
    close = nearest(name.lower(), _SPECS)
    raise ArgumentError(
        "loss",
        expected=f"one of {', '.join(map(repr, _SPECS))}, torchdistill:NAME, module:Class of "
        "your own code, or several, joined by '+'",
        got=repr(name) if name == whole else f"{name!r} in {whole!r}",
        remedy=close if close.startswith("did") else "choose one of these",
    )
