"""Networks of finished runs, rebuilt to be measured.

Nothing is downloaded for a report, and no code is run but this library's and, for their networks,
timm's, torchvision's and transformers'. What cannot be built so is `Missing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import nn

from svdistill.common import Case, Measurement, SVDistillError, interleave
from svdistill.config import OBJECT, PRETRAINED
from svdistill.networks import build_network, is_code, is_zoo, network_names, profile_network
from svdistill.report.deviations import AUGMENTATIONS
from svdistill.report.runs import Run, class_choice
from svdistill.runs import (
    WeightsCard,
    build_as_on_card,
    environment,
    is_own_code,
    load_student,
    read_card,
    weights_file,
)
from svdistill.training import derive_seed, fill_network, load_teacher

HUB = "hf:"


class Missing(Exception):  # noqa: N818  it is no error: the page says it, and shows the rest
    """What a report would need and does not have, as a sentence without its full stop."""


def card_of(run: Run) -> WeightsCard:
    """What a run's weights say of themselves.

    Raises:
        Missing: there are none.
        RunError: they are damaged.
    """
    card = None if run.weights is None else read_card(run.weights)
    if card is None:
        raise Missing(f"{run.path} lacks its weights (student.safetensors)")
    return card


def build_student(run: Run) -> nn.Module:
    """A run's network with the random weights that its seed draws, in evaluation mode.

    It needs no weights file, unless it is one of transformers', of which that file has the
    configuration.

    Raises:
        Missing: the network is of the user's own code, or its weights file is not there.
        SVDistillError: its library is missing, or no longer has it.
    """
    name = run.summary.network
    if not is_zoo(name) and name not in network_names():
        raise Missing(f"the network of {run.path} {_own(name)}")
    with _as_seeded(run):
        if name.startswith(HUB):
            return build_as_on_card(card_of(run), run.path).eval()
        classes, size = run.summary.num_classes, run.summary.image_size
        return build_network(name, classes, run.summary.width, image_size=size).eval()


def student_before(run: Run) -> nn.Module:
    """A run's network as its training began, in evaluation mode.

    Raises:
        Missing: as for `build_student`, or the weights that it started from are not at hand.
        SVDistillError: likewise, or these weights are damaged.
    """
    name, weights = run.summary.network, str(run.config.get("weights") or "")
    if weights == PRETRAINED:
        if not _is_folder(name):
            raise Missing(
                f"{run.path} started from the published weights of {name}, which a report does "
                "not fetch"
            )
        classes, size = run.summary.num_classes, run.summary.image_size
        with _as_seeded(run):
            return build_network(name, classes, pretrained=True, image_size=size).eval()
    if weights and not Path(weights).exists():
        raise Missing(f"{run.path} started from {weights}, which is not there")
    network = build_student(run)
    if weights:
        with torch.random.fork_rng(devices=[]):
            fill_network(network, weights, len(card_of(run).class_names))
    return network


def student_after(run: Run) -> nn.Module:
    """A run's network after its last epoch, in evaluation mode.

    Raises:
        Missing: its weights are not there, or it is of the user's own code.
        SVDistillError: they are damaged, or the network's library is missing.
    """
    card = card_of(run)
    if is_own_code(card):
        raise Missing(f"the network of {run.path} {_own(card.network)}")
    with torch.random.fork_rng(devices=[]):
        return load_student(run.path)


def trained_teacher(run: Run, teacher: str | Path | None = None) -> nn.Module:
    """The teacher of a run, in evaluation mode.

    Args:
        run: the student's.
        teacher: its teacher, where the run does not name one, or one that has been moved.

    Raises:
        Missing: it is not at hand, or of the user's own code.
        SVDistillError: its weights are damaged, or of other classes, or its library is missing.
    """
    spec, weights = _spec(run, teacher), str(run.config.get("teacher_weights") or "")
    name = run.config.get("teacher_network")
    if is_zoo(spec) and not Path(spec).exists():
        if weights in ("", PRETRAINED) and not _is_folder(spec):
            raise Missing(
                f"the teacher of {run.path} has the published weights of {spec}, which a report "
                "does not fetch"
            )
        if weights not in ("", PRETRAINED) and not Path(weights).exists():
            raise Missing(f"the weights of the teacher of {run.path}, {weights}, are not there")
        _require_local(run, spec)
    else:
        file = weights_file(Path(spec))
        if not file.exists():
            raise Missing(f"the teacher of {run.path}, {spec}, is not there")
        if own := _own_code(read_card(file), name):
            raise Missing(f"the teacher of {run.path} {_own(own)}")
    with torch.random.fork_rng(devices=[]):
        return load_teacher(
            spec,
            len(card_of(run).class_names),
            network=name,
            width=float(run.config.get("teacher_width", 1.0)),
            weights=weights,
            image_size=card_of(run).image_size,
        ).eval()


def build_teacher(run: Run, teacher: str | Path | None = None) -> nn.Module:
    """The teacher of a run for its modules' sake: with its weights only if they are at hand.

    Raises:
        Missing, SVDistillError: as for `trained_teacher`.
    """
    spec, card = _spec(run, teacher), card_of(run)
    if not is_zoo(spec) or Path(spec).exists():
        return trained_teacher(run, teacher)
    _require_local(run, spec)
    with torch.random.fork_rng(devices=[]):
        return build_network(spec, len(card.class_names), image_size=card.image_size).eval()


def _spec(run: Run, teacher: str | Path | None) -> str:
    """What the teacher is, where the report may look at it."""
    spec = str(teacher or run.config.get("teacher") or "")
    if not spec:
        raise Missing(f"{run.path} learnt from a knowledge store, and its teacher is not at hand")
    if not Path(spec).exists() and (spec == OBJECT or is_code(spec)):
        raise Missing(f"the teacher of {run.path} {_own(spec)}")
    return spec


def _own_code(card: WeightsCard | None, name: str | None) -> str:
    """What a weights file's network is built by, where that is the user's own code; else nothing.

    A card that says so may be overruled by a name.
    """
    if card is not None and (not is_own_code(card) or not name):
        name = card.network if is_own_code(card) else ""
    return name if name and (name == OBJECT or is_code(name)) else ""


def _is_folder(name: str) -> bool:
    """Whether a network of transformers is one in a folder, with configuration and weights."""
    return name.startswith(HUB) and Path(name.removeprefix(HUB)).expanduser().is_dir()


@contextmanager
def _as_seeded(run: Run) -> Iterator[None]:
    """Draw weights as the run did, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(run.summary.seed, "weights"))
        yield


def _require_local(run: Run, spec: str) -> None:
    if spec.startswith(HUB) and not _is_folder(spec):
        raise Missing(f"the teacher of {run.path}, {spec}, is on the hub, which a report leaves be")


def _own(name: str) -> str:
    if name == OBJECT:
        return "was given in Python, and cannot be built again"
    return f"is code of your own, {name}, which a report does not run"


ROUNDS: Final = 30

WARM_UP: Final = 5


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of one image, batch size 1, on the CPU, in evaluation mode.

    Attributes:
        network, parameters, flops: of the network, as in the summaries of its runs.
        milliseconds: the median of all passes.
        lower, upper: quartiles.
        threads: that torch used.
        processor: that it ran on.
    """

    network: str
    parameters: int
    flops: int
    milliseconds: float
    lower: float
    upper: float
    threads: int
    processor: str

    def is_of(self, run: Run) -> bool:
        """Whether a run trained this network."""
        return (self.network, self.parameters, self.flops) == _identity(run)


@dataclass(frozen=True)
class Latencies:
    """What was timed, in the order in which the networks first come, and why others were not."""

    networks: tuple[Latency, ...] = ()
    left_out: tuple[str, ...] = ()


def measure_latencies(runs: Sequence[Run]) -> Latencies:
    """Time each network of some runs once, one pass of each in turn.

    What slows the machine down for a while so falls on all of them alike. Weights do not matter
    and are not read.

    Args:
        runs: of any networks.

    Returns:
        A latency for each distinct network that can be built again, and for each other a sentence.
    """
    distinct = list({_identity(run): run for run in reversed(runs)}.values())[::-1]
    timed, cases, left_out = [], [], []
    for run in distinct:
        try:
            network, image = rebuild(run)
        except (Missing, SVDistillError) as reason:
            left_out.append(f"{run.pair} was not timed: {reason}.")
        else:
            timed.append(run)
            cases.append(Case(run.summary.network, partial(network, image)))
    with torch.inference_mode():
        times = interleave(cases, ROUNDS, warm_up=WARM_UP)
    latencies = tuple(_sum_up(run, time) for run, time in zip(timed, times, strict=True))
    return Latencies(latencies, tuple(left_out))


def rebuild(run: Run) -> tuple[nn.Module, torch.Tensor]:
    """The network of a run with random weights, in evaluation mode, and a blank image [1, 3, S, S].

    Raises:
        Missing: it cannot be built from what the run left, or is no longer built as it was.
        SVDistillError: its library is missing, or no longer has it.
    """
    network, side = build_student(run), run.summary.image_size
    shape = (3, side, side)
    profile = profile_network(network, shape)
    if (profile.parameters, profile.flops) != (run.summary.parameters, run.summary.flops):
        raise Missing(
            f"{run.path} counted {run.summary.parameters:,} parameters and {run.summary.flops:,} "
            f"FLOPs, and what is built by its name now {profile.parameters:,} and {profile.flops:,}"
        )
    return network, torch.zeros(1, *shape)


def _identity(run: Run) -> tuple[str, int, int]:
    return run.summary.network, run.summary.parameters, run.summary.flops


def _sum_up(run: Run, seconds: Measurement) -> Latency:
    machine = environment()
    return Latency(
        *_identity(run),
        milliseconds=1e3 * seconds.median,
        lower=1e3 * seconds.lower_quartile,
        upper=1e3 * seconds.upper_quartile,
        threads=machine["threads"],
        processor=str(machine["processor"]),
    )


MOST_NAMES: Final = 12  # of classes that are all named


def image_facts(run: Run) -> list[tuple[str, str]]:
    """Name and value of each: which images, of what classes and size, seen how."""
    try:
        card: WeightsCard | None = card_of(run)
    except (Missing, SVDistillError):
        card = None
    own = run.config["data"] == OBJECT
    augmentation = AUGMENTATIONS[run.config["augmentation"]]
    facts = [
        ("images", "given in Python" if own else str(run.config["data"])),
        ("of these", "" if class_choice(run.config) == "all classes" else class_choice(run.config)),
        ("trained on", _trained_on(run)),
        ("classes", _classes(run, card)),
        ("size", _size(run, card)),
        ("mean of the channels", "not known" if card is None else _digits(card.mean)),
        ("their standard deviation", "not known" if card is None else _digits(card.std)),
        ("augmentation", augmentation + (", unless they came prepared" if own else "")),
    ]
    return [fact for fact in facts if fact[1]]


def _trained_on(run: Run) -> str:
    config = run.config
    size, held_out, more = (config.get(n) for n in ("train_size", "dev_fraction", "unlabelled"))
    parts = [f"{size:,} of the training images" if size else "all training images"]
    if held_out:
        parts.append(f"{held_out:.0%} of them held out to choose the best epoch")
    if more:
        rest = "those that are left" if more == "rest" else more
        parts.append(f"and without their labels on {rest}")
    return "" if config["data"] == OBJECT else ", ".join(parts)


def _classes(run: Run, card: WeightsCard | None) -> str:
    if card is None:
        return str(run.summary.num_classes)
    names = card.class_names
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"{len(names):,}: {', '.join(names[:MOST_NAMES])}{more}"


def _size(run: Run, card: WeightsCard | None) -> str:
    side = run.summary.image_size if card is None else card.image_size
    return f"{side}x{side} pixels"


def _digits(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)
