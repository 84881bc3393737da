"""The rows of the step's table: methods, each as one whole training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from svdistill.common import Case
from svdistill.config import DistillConfig
from svdistill.distillation import Distiller
from svdistill.linalg import truncated_svd
from svdistill.losses import FSPLoss, SoftTargetLoss, SVDLoss, TransferLoss, dfv_distance
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

AMORTISED_STEPS = 20  # two intervals of clip="amortised": two steps in twenty take both gradients

DOUBLE_SHARE = 0.1

# The default of `svdistill distill`: position SVD, clipped, beside soft targets.
DEFAULT = DistillConfig(output="").filled()

Shares = tuple[tuple[Part, float], ...]


class Row(NamedTuple):
    """A row: what is timed, and how often a step of it runs each part."""

    case: Case
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
    to_taps = (networks.teacher_to_taps, 1.0)
    slow = spectral_parts("straightforward", workload, leading_svd, explicit_distance)
    ours = spectral_parts("ours", workload, truncated_svd, dfv_distance)
    both_gradients = (*plain, (networks.transfer_backward, 1.0))
    spectral = tuple((part, 1.0) for part in ours)
    sometimes_both = (*plain, (networks.transfer_backward, DOUBLE_SHARE), *spectral)

    svd, default = SVDLoss(), build_losses(DEFAULT)
    return [
        Row(Case("plain student", _plain_step(workload)), plain),
        Row(Case("soft target, by hand", _soft_target_step(workload)), taught),
        *(
            Row(Case(peer.name, _peer_step(workload, peer)), taught)
            for peer in torchdistill_peers(len(workload.taps.teacher))
        ),
        Row(
            Case("soft target", _step(workload, SoftTargetLoss())),
            ((networks.teacher_to_logits, 1.0), *plain),
        ),
        Row(Case("FSP", _step(workload, FSPLoss())), (to_taps, *plain)),
        Row(
            Case("SVD, straightforward", _straightforward_step(workload)),
            ((networks.teacher_forward, 1.0), *both_gradients, *((part, 1.0) for part in slow)),
        ),
        Row(Case("SVD", _step(workload, svd, clip="norm")), (to_taps, *both_gradients, *spectral)),
        Row(
            Case("SVD, amortised", _step(workload, svd, clip="amortised"), AMORTISED_STEPS),
            (to_taps, *sometimes_both),
        ),
        Row(
            Case("SVD, amortised, from store", _stored_step(workload, svd), AMORTISED_STEPS),
            tuple((part, times) for part, times in sometimes_both if part is not ours.teacher_svd),
        ),
        Row(
            Case("default", _step(workload, *default, clip=DEFAULT.clip), AMORTISED_STEPS),
            ((networks.teacher_to_logits, 1.0), *plain, (networks.transfer_backward, DOUBLE_SHARE)),
        ),
        Row(
            Case("default, from store", _stored_step(workload, *default), AMORTISED_STEPS),
            (*plain, (networks.transfer_backward, DOUBLE_SHARE)),
        ),
    ]


def _plain_step(workload: Workload) -> Callable[[], None]:
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


def _step(
    workload: Workload,
    loss: TransferLoss,
    unclipped: TransferLoss | None = None,
    clip: str = "none",
) -> Callable[[], None]:
    """Losses of svdistill, with a live teacher."""
    student = workload.new_student()
    optimizer = new_optimizer(student)
    distiller = Distiller(
        workload.teacher, student, loss, taps=workload.taps, clip=clip, unclipped=unclipped
    )

    def run() -> None:
        output = distiller(workload.images)
        task_loss = F.cross_entropy(output.logits, workload.labels)
        distiller.backward(task_loss, output, progress=0.0)
        optimizer.step()
        optimizer.zero_grad()

    return run


def _stored_step(
    workload: Workload, loss: TransferLoss, unclipped: TransferLoss | None = None
) -> Callable[[], None]:
    """Losses of svdistill that read the teacher's knowledge from a table in memory."""
    student = workload.new_student()
    optimizer = new_optimizer(student)
    taps = workload.taps
    table = Distiller(workload.teacher, student, loss, taps=taps, unclipped=unclipped).teach(
        workload.images
    )
    distiller = Distiller(None, student, loss, taps=taps, clip="amortised", unclipped=unclipped)
    images_read = torch.arange(len(workload.images), device=workload.images.device)

    def run() -> None:
        knowledge = table.map(lambda tensor: tensor[images_read])
        output = distiller(workload.images, knowledge=knowledge)
        task_loss = F.cross_entropy(output.logits, workload.labels)
        distiller.backward(task_loss, output, progress=0.0)
        optimizer.step()
        optimizer.zero_grad()

    return run
