"""The parts of a training step, each as a case of its own: where a step's time goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.common import Case
from svdistill.distillation import Distiller
from svdistill.losses import Knowledge, TransferLoss
from svdistill.taps import FeatureTaps
from svdistill_benchmarks.workload import Workload

TEACHER_FORWARD = "teacher forward"

STUDENT_FORWARD = "student forward"

STUDENT_BACKWARD = "student backward"

OPTIMIZER = "optimizer"

TEACHER_SVD = "SVD of the teacher's maps"

STUDENT_SVD = "SVD of the student's maps"

SVD_BACKWARD = "backward of the SVD"

DFV = "DFV, both ways"

REST = "the rest"

KINDS = (
    TEACHER_FORWARD,
    STUDENT_FORWARD,
    STUDENT_BACKWARD,
    OPTIMIZER,
    TEACHER_SVD,
    STUDENT_SVD,
    SVD_BACKWARD,
    DFV,
    REST,
)


SVD = Callable[[Tensor, int], tuple[Tensor, Tensor]]

Distance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Part(NamedTuple):
    """A part of a step: what kind it is, and how to time it."""

    kind: str
    case: Case


class NetworkParts(NamedTuple):
    """What the networks cost, whatever the loss.

    `teacher_to_taps` and `teacher_to_logits` are as a `Distiller` runs it; `transfer_backward`
    starts at the taps, where a transfer's gradient enters.
    """

    teacher_forward: Part
    teacher_to_taps: Part
    teacher_to_logits: Part
    student_forward: Part
    task_backward: Part
    transfer_backward: Part
    optimizer: Part


class SpectralParts(NamedTuple):
    """What the paper's loss costs."""

    teacher_svd: Part
    student_svd: Part
    svd_backward: Part
    dfv: Part


def network_parts(workload: Workload) -> NetworkParts:
    """The parts of every distillation. Graphs and gradients are made once and kept."""
    student = workload.new_student()
    parameters = list(student.parameters())
    taps = FeatureTaps(student, workload.taps.student)
    recording = taps.run(workload.images)
    task_loss = F.cross_entropy(recording.output, workload.labels)
    tap_gradients = [torch.randn_like(feature) for feature in recording.features]

    def transfer_backward() -> None:
        torch.autograd.grad(
            recording.features, parameters, tap_gradients, retain_graph=True, allow_unused=True
        )

    return NetworkParts(
        _part(TEACHER_FORWARD, partial(teacher_forward, workload), "plain"),
        _part(TEACHER_FORWARD, _distillers_teacher(workload, needs_logits=False), "to the taps"),
        _part(TEACHER_FORWARD, _distillers_teacher(workload, needs_logits=True), "to the logits"),
        _part(STUDENT_FORWARD, lambda: taps.run(workload.images)),
        _part(
            STUDENT_BACKWARD,
            lambda: torch.autograd.grad(task_loss, parameters, retain_graph=True),
            "the task's",
        ),
        _part(STUDENT_BACKWARD, transfer_backward, "the transfer's"),
        _part(OPTIMIZER, _update(workload.new_student())),
    )


def spectral_parts(whose: str, workload: Workload, svd: SVD, distance: Distance) -> SpectralParts:
    """The parts of the paper's loss, k = 1, with somebody's SVD and distance of DFVs.

    Args:
        whose: name of the implementation.
        workload: its networks' maps are decomposed.
        svd: matrices [B, N, D] and k to values [B, k] and right vectors [B, D, k].
        distance: of student front, student back, teacher front and teacher back [B, D, k].
    """
    teacher_maps = _maps(workload.teacher, workload.taps.teacher, workload.images)
    student_maps = [
        matrices.requires_grad_()
        for matrices in _maps(workload.new_student(), workload.taps.student, workload.images)
    ]

    def decompose_students() -> list[Tensor]:
        return [svd(matrices, 2)[1] for matrices in student_maps]

    with torch.no_grad():
        teachers = [svd(matrices, 1)[1] for matrices in teacher_maps]
    decomposed = decompose_students()
    students = [vectors[..., :1].detach().requires_grad_() for vectors in decomposed]
    # Of a student's two candidates mostly the first is chosen, and the other has no gradient.
    vector_gradients = [torch.randn_like(vectors) for vectors in decomposed]
    for gradient in vector_gradients:
        gradient[..., 1:] = 0.0

    def decompose_teachers() -> None:
        with torch.no_grad():
            for matrices in teacher_maps:
                svd(matrices, 1)

    def svd_backward() -> None:
        torch.autograd.grad(decomposed, student_maps, vector_gradients, retain_graph=True)

    def dfv_both_ways() -> None:
        distances = [
            distance(*student, *teacher)
            for student, teacher in zip(pairwise(students), pairwise(teachers), strict=True)
        ]
        torch.autograd.grad(torch.stack(distances).sum(), students)

    return SpectralParts(
        _part(TEACHER_SVD, decompose_teachers, whose),
        _part(STUDENT_SVD, decompose_students, whose),
        _part(SVD_BACKWARD, svd_backward, whose),
        _part(DFV, dfv_both_ways, whose),
    )


@torch.no_grad()
def teacher_forward(workload: Workload) -> Tensor:
    """The teacher's logits of the batch."""
    logits: Tensor = workload.teacher(workload.images)
    return logits


def new_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Every row's optimizer. Its steps are small: the weights stay about what they were."""
    return torch.optim.SGD(
        network.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, nesterov=True
    )


class _Listener(TransferLoss):
    """Keeps nothing of the teacher: to run it is all that remains."""

    def __init__(self, needs_logits: bool) -> None:
        super().__init__()
        self.needs_logits = needs_logits

    def extract(self, features: Sequence[Tensor], logits: Tensor | None) -> Knowledge:
        return Knowledge()

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        knowledge: Knowledge,
        labels: Tensor | None = None,
    ) -> Tensor:
        return logits.new_zeros(())


def _distillers_teacher(workload: Workload, *, needs_logits: bool) -> Callable[[], object]:
    """The teacher's forward pass as our own rows do it."""
    distiller = Distiller(
        workload.teacher, workload.new_student(), _Listener(needs_logits), taps=workload.taps
    )
    return partial(distiller.teach, workload.images)


def _update(network: nn.Module) -> Callable[[], None]:
    """An optimizer's step on a network of its own: it would spoil the graphs of another."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return new_optimizer(network).step


def _part(kind: str, run: Callable[[], object], whose: str = "") -> Part:
    return Part(kind, Case(f"{kind}: {whose}" if whose else kind, run))


@torch.no_grad()
def _maps(network: nn.Module, paths: Sequence[str], images: Tensor) -> list[Tensor]:
    """The tapped maps as matrices [B, H W, D]."""
    features = FeatureTaps(network, paths).run(images).features
    return [feature.flatten(2).mT.detach() for feature in features]
