"""Tables of networks, and the networks of finished runs, rebuilt to be measured.

A report downloads nothing and runs no code but this library's and that of timm, torchvision and
transformers. A network that cannot be built under these rules raises `Missing`.
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

from svdistill.common import (
    Case,
    Cell,
    Column,
    Measurement,
    SVDistillError,
    Table,
    columns,
    interleave,
    millions_cell,
    number_cell,
)
from svdistill.config import OBJECT, PRETRAINED
from svdistill.networks import (
    NetworkDescription,
    build_network,
    is_code,
    is_zoo,
    network_names,
    profile_network,
)
from svdistill.report.runs import Run
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


class Missing(Exception):  # noqa: N818  not an error: the page says it and shows the rest
    """Something that a report needs and does not have, as a sentence without its full stop."""


def network_table(network: NetworkDescription) -> Table:
    """One network: a row for each part, and its taps.

    Args:
        network: as `describe_network` returns it.
    """
    rows = [
        (
            Cell(stage.path),
            Cell("tap" if stage.is_tap else ""),
            Cell("x".join(map(str, stage.shape))),
            number_cell(stage.parameters, "{:,}"),
            millions_cell(stage.flops),
        )
        for stage in network.stages
    ]
    size, published = network.profile, network.published
    total = (number_cell(size.parameters, "{:,}"), millions_cell(size.flops))
    rows.append((Cell("all"), Cell(""), Cell(""), *total))
    note = "FLOPs = 2 x multiply-adds of one image."
    if published is not None:
        total = (millions_cell(published.parameters, digits=2), millions_cell(published.flops))
        rows.append((Cell("paper's table"), Cell(""), Cell(""), *total))
        note += f" Deviation: {published.deviation}." if published.deviation else ""
    side = network.image_size
    return Table(
        title=f"{network.name}, {network.num_classes} classes, width {network.width:g}, "
        f"images 3x{side}x{side}",
        columns=(Column("part", numeric=False), *columns("tap", "output", "parameters", "FLOPs")),
        rows=tuple(rows),
        notes=(note,),
        totals=len(rows) - len(network.stages),
    )


def networks_table(networks: Sequence[NetworkDescription]) -> Table:
    """Several networks: a row for each, with the shapes of its taps.

    Args:
        networks: as `describe_network` returns them.
    """
    rows = []
    for network in networks:
        size, published = network.profile, network.published
        parameters, flops = Cell(""), Cell("")
        if published is not None:
            parameters = millions_cell(published.parameters, digits=2)
            flops = millions_cell(published.flops)
        shapes = " ".join("x".join(map(str, shape)) for _, shape in size.taps)
        rows.append(
            (
                Cell(network.name),
                millions_cell(size.parameters, digits=2),
                parameters,
                millions_cell(size.flops),
                flops,
                Cell(shapes),
            )
        )
    numeric = ("parameters", "paper", "FLOPs", "paper")
    return Table(
        "Networks (FLOPs = 2 x multiply-adds)",
        (
            Column("network", numeric=False, wrap=False),
            *map(Column, numeric),
            Column("taps", numeric=False),
        ),
        tuple(rows),
    )


def card_of(run: Run) -> WeightsCard:
    """The card in a run's weights file.

    Raises:
        Missing: there is no weights file.
        RunError: it is damaged.
    """
    card = None if run.weights is None else read_card(run.weights)
    if card is None:
        raise Missing(f"{run.path} lacks its weights (student.safetensors)")
    return card


def build_student(run: Run) -> nn.Module:
    """A run's network with the random weights that its seed draws, in evaluation mode.

    Networks of transformers need the weights file, which contains their configuration.

    Raises:
        Missing: the network is of the user's own code, or its weights file is not there.
        SVDistillError: its library is missing or no longer has it.
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
        Missing: as for `build_student`, or the weights that it started from are not available.
        SVDistillError: as for `build_student`, or these weights are damaged.
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
        teacher: where the teacher is, if the run does not name it or it was moved.

    Raises:
        Missing: it is not available, or is the user's own code.
        SVDistillError: its weights are damaged, or its library is missing.
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
        loaded = load_teacher(
            spec,
            card_of(run).class_names,
            network=name,
            width=float(run.config.get("teacher_width", 1.0)),
            weights=weights,
            image_size=card_of(run).image_size,
        )
        return loaded.network.eval()


def build_teacher(run: Run, teacher: str | Path | None = None) -> nn.Module:
    """The teacher of a run, with its weights only if they are available, to look at its modules.

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
    """The teacher's path or name.

    Raises:
        Missing: it is unknown, or is the user's own code.
    """
    spec = str(teacher or run.config.get("teacher") or "")
    if not spec:
        raise Missing(f"{run.path} learnt from a knowledge store, and its teacher is not available")
    if not Path(spec).exists() and (spec == OBJECT or is_code(spec)):
        raise Missing(f"the teacher of {run.path} {_own(spec)}")
    return spec


def _own_code(card: WeightsCard | None, name: str | None) -> str:
    """The user's own code that builds a weights file's network; empty if there is none.

    A given name overrides a card that names the user's code.
    """
    if card is not None and (not is_own_code(card) or not name):
        name = card.network if is_own_code(card) else ""
    return name if name and (name == OBJECT or is_code(name)) else ""


def _is_folder(name: str) -> bool:
    """Whether a network of transformers is a local folder."""
    return name.startswith(HUB) and Path(name.removeprefix(HUB)).expanduser().is_dir()


@contextmanager
def _as_seeded(run: Run) -> Iterator[None]:
    """Draw weights from the run's seed, without changing torch's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(run.summary.seed, "weights"))
        yield


def _require_local(run: Run, spec: str) -> None:
    if spec.startswith(HUB) and not _is_folder(spec):
        raise Missing(
            f"the teacher of {run.path}, {spec}, is on the hub, which a report does not read"
        )


def _own(name: str) -> str:
    if name == OBJECT:
        return "was given in Python, and cannot be built again"
    return f"is code of your own, {name}, which a report does not run"


ROUNDS: Final = 30

WARM_UP: Final = 5


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of one image on the CPU, in evaluation mode.

    Attributes:
        network, parameters, flops: of the network, as in the summaries of its runs.
        milliseconds: the median of all passes.
        threads: of torch.
        processor: its name.
    """

    network: str
    parameters: int
    flops: int
    milliseconds: float
    threads: int
    processor: str

    def is_of(self, run: Run) -> bool:
        """Whether a run trained this network."""
        return (self.network, self.parameters, self.flops) == _identity(run)


@dataclass(frozen=True)
class Latencies:
    """The networks that were timed, and the reasons why others were not."""

    networks: tuple[Latency, ...] = ()
    left_out: tuple[str, ...] = ()


def measure_latencies(runs: Sequence[Run]) -> Latencies:
    """Time each distinct network of some runs, one pass of each in turn.

    A slow phase of the machine so affects all networks equally. Weights are not read.

    Returns:
        A latency for each network that can be rebuilt, and a sentence for each other.
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
    latencies = tuple(_latency(run, time) for run, time in zip(timed, times, strict=True))
    return Latencies(latencies, tuple(left_out))


def rebuild(run: Run) -> tuple[nn.Module, torch.Tensor]:
    """The network of a run with random weights, in evaluation mode, and a blank image [1, 3, S, S].

    Raises:
        Missing: it cannot be built from the run's files, or its size has changed since.
        SVDistillError: its library is missing or no longer has it.
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


def _latency(run: Run, seconds: Measurement) -> Latency:
    machine = environment()
    return Latency(
        *_identity(run),
        milliseconds=1e3 * seconds.median,
        threads=machine["threads"],
        processor=str(machine["processor"]),
    )
