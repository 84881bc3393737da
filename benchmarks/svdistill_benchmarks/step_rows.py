"""The rows of the step's table: methods, each as one whole training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F

from svdistill.common import Case
from svdistill.config import DistillConfig
from svdistill.distillation import Distiller
from svdistill.linalg import truncated_svd
from svdistill.losses import DEFAULT_LOSS, dfv_distance
from svdistill.store import describe
from svdistill.taps import FeatureTaps
from svdistill.training import build_losses
from svdistill_benchmarks.peers import Peer, torchdistill_peers
from svdistill_benchmarks.step_parts import (
    NetworkParts,
    Part,
    new_optimizer,
    spectral_parts,
    teacher_forward,
)
from svdistill_benchmarks.straightforward import (
    clipped_gradients,
    explicit_distance,
    leading_svd,
    straightforward_loss,
)
from svdistill_benchmarks.workload import Workload

SVD: Final = "SVD, amortised"
POSITION_SVD: Final = "position SVD + soft target"
DEFAULT: Final = "Gram of positions 4x4 + DIST"  # of `svdistill distill`
POSITION_GRAM: Final = "Gram of positions 8x8 + soft target"

# Methods by the names of their rows. "SVD" takes two gradients in every step; the others in one of
# `clip_interval`, those without a clip only to report the norms.
METHODS: Final = {
    "soft target": DistillConfig(output="", loss="soft_target", clip="none"),
    "FSP": DistillConfig(output="", loss="fsp", clip="none"),
    "SVD": DistillConfig(output="", loss="svd", clip="norm"),
    SVD: DistillConfig(output="", loss="svd", clip="amortised"),
    POSITION_SVD: DistillConfig(output="", loss="position_svd+soft_target", clip="amortised"),
    POSITION_GRAM: DistillConfig(
        output="", loss="position_gram+soft_target", grid=8, clip="amortised"
    ),
    DEFAULT: DistillConfig(output="", loss=DEFAULT_LOSS),
}

FROM_STORE: Final = ", from store"

# Steps that take both gradients, of all.
DOUBLE_SHARE: Final = 1 / METHODS[SVD].clip_interval

Shares = tuple[tuple[Part, float], ...]


class Steps(NamedTuple):
    """The kinds of steps of a method, each with its share, and the bytes of a store's view."""

    kinds: tuple[tuple[Case, float], ...]
    store_bytes: int | None = None


class Row(NamedTuple):
    """A row: its steps, and how often a step runs each part."""

    name: str
    steps: Steps
    parts: Shares


def floor(workload: Workload) -> Case:
    """The least that a method with two gradients needs.

    The teacher's forward pass, the student's, and two backward passes through the student, of the
    cross-entropy; no other loss and no update.
    """
    student = workload.new_student()
    parameters = list(student.parameters())

    def run() -> None:
        teacher_forward(workload)
        loss = F.cross_entropy(student(workload.images), workload.labels)
        torch.autograd.grad(loss, parameters, retain_graph=True)
        torch.autograd.grad(loss, parameters)

    return Case("floor", run)


def step_rows(workload: Workload, networks: NetworkParts) -> list[Row]:
    """All rows, in the table's order."""
    plain: Shares = (
        (networks.student_forward, 1.0),
        (networks.task_backward, 1.0),
        (networks.optimizer, 1.0),
    )
    taught = ((networks.teacher_forward, 1.0), *plain)
    to_taps, to_logits = (networks.teacher_to_taps, 1.0), (networks.teacher_to_logits, 1.0)
    slow = spectral_parts("straightforward", workload, leading_svd, explicit_distance)
    ours = spectral_parts("ours", workload, truncated_svd, dfv_distance)
    spectral = tuple((part, 1.0) for part in ours)
    both_gradients = (*plain, (networks.transfer_backward, 1.0))
    sometimes_both = (*plain, (networks.transfer_backward, DOUBLE_SHARE))
    parts_of = {
        "soft target": (to_logits, *plain, (networks.task_backward, DOUBLE_SHARE)),
        "FSP": (to_taps, *sometimes_both),
        "SVD": (to_taps, *both_gradients, *spectral),
        SVD: (to_taps, *sometimes_both, *spectral),
    }
    rows = [
        _row("plain student", plain_step(workload), plain),
        _row("soft target, by hand", _soft_target_step(workload), taught),
        *(
            _row(peer.name, _peer_step(workload, peer), taught)
            for peer in torchdistill_peers(len(workload.taps.teacher))
        ),
        _row(
            "SVD, straightforward",
            _straightforward_step(workload),
            ((networks.teacher_forward, 1.0), *both_gradients, *((part, 1.0) for part in slow)),
        ),
    ]
    teachers = (networks.teacher_to_taps, networks.teacher_to_logits, ours.teacher_svd)
    for name in METHODS:
        parts = parts_of.get(name, (to_logits, *sometimes_both))
        rows.append(Row(name, method_steps(workload, name), parts))
        if name not in ("soft target", "FSP", "SVD"):
            stored = tuple((part, times) for part, times in parts if part not in teachers)
            name += FROM_STORE
            rows.append(Row(name, method_steps(workload, name), stored))
    return rows


def method_steps(workload: Workload, name: str) -> Steps:
    """The steps of one of `METHODS`, with a live teacher or, by its name, from a store."""
    config = METHODS[name.removesuffix(FROM_STORE)].filled()
    live, store_bytes = not name.endswith(FROM_STORE), None
    student = workload.new_student()
    clipped, unclipped = build_losses(config)

    def distiller(live: bool) -> Distiller:
        return Distiller(
            workload.teacher if live else None,
            student,
            clipped,
            taps=workload.taps,
            clip=config.clip,
            clip_interval=config.clip_interval,
            unclipped=unclipped,
        )

    ours, optimizer = distiller(live), new_optimizer(student)
    table = None if live else distiller(True).teach(workload.images)
    if table is not None:
        store_bytes = sum(leaf.bytes for leaf in describe(table, "float16").leaves())
    images_read = torch.arange(len(workload.images), device=workload.images.device)

    def run(measure: bool | None) -> None:
        knowledge = None if table is None else table.map(lambda tensor: tensor[images_read])
        output = ours(workload.images, knowledge=knowledge)
        task_loss = F.cross_entropy(output.logits, workload.labels)
        ours.backward(task_loss, output, progress=0.0, measure=measure)
        optimizer.step()
        optimizer.zero_grad()

    if config.clip == "norm":
        return Steps(((Case(name, partial(run, None)), 1.0),), store_bytes)
    kinds = (
        (Case(f"{name}: one gradient", partial(run, False)), 1.0 - DOUBLE_SHARE),
        (Case(f"{name}: two gradients", partial(run, True)), DOUBLE_SHARE),
    )
    return Steps(kinds, store_bytes)


def _row(name: str, run: Callable[[], object], parts: Shares) -> Row:
    return Row(name, Steps(((Case(name, run), 1.0),)), parts)


def plain_step(workload: Workload) -> Callable[[], None]:
    """Cross-entropy alone."""
    student = workload.new_student()
    optimizer = new_optimizer(student)

    def run() -> None:
        F.cross_entropy(student(workload.images), workload.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _soft_target_step(workload: Workload) -> Callable[[], None]:
    """Soft targets in plain PyTorch: cross-entropy and KL divergence at temperature 4."""
    student = workload.new_student()
    optimizer = new_optimizer(student)
    temperature = 4.0

    def run() -> None:
        with torch.no_grad():
            teacher_logits = workload.teacher(workload.images)
        logits = student(workload.images)
        soft_target = F.kl_div(
            F.log_softmax(logits / temperature, dim=1),
            F.log_softmax(teacher_logits / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        task_loss = F.cross_entropy(logits, workload.labels)
        (0.1 * task_loss + 0.9 * temperature**2 * soft_target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _peer_step(workload: Workload, peer: Peer) -> Callable[[], None]:
    """Another package's loss, on the same taps, with one backward pass."""
    student = workload.new_student()
    optimizer = new_optimizer(student)
    teacher_taps = FeatureTaps(workload.teacher, workload.taps.teacher)
    student_taps = FeatureTaps(student, workload.taps.student)

    def run() -> None:
        with torch.no_grad():
            teacher = teacher_taps.run(workload.images)
        peer.loss(student_taps.run(workload.images), teacher, workload.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _straightforward_step(workload: Workload) -> Callable[[], None]:
    """The paper's method in the straightforward way."""
    student = workload.new_student()
    optimizer = new_optimizer(student)
    parameters = list(student.parameters())
    teacher_taps = FeatureTaps(workload.teacher, workload.taps.teacher)
    student_taps = FeatureTaps(student, workload.taps.student)

    def run() -> None:
        with torch.no_grad():
            teacher = teacher_taps.run(workload.images)
        recording = student_taps.run(workload.images)
        transfer_loss = straightforward_loss(recording.features, teacher.features)
        task_loss = F.cross_entropy(recording.output, workload.labels)
        clipped_gradients(task_loss, transfer_loss, parameters, progress=0.0)
        optimizer.step()
        optimizer.zero_grad()

    return run
