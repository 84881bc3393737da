"""Cases for the losses and the decomposition, each made again from its seed and number."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import torch
from hard_features import BROKEN, DTYPES, ORDINARY, broken, draw_size, feature_map, sample_kinds
from torch import Tensor, nn

from svdistill.distillation import CLIPS
from svdistill.distillation.distiller import Distiller
from svdistill.linalg.gradients import GRADIENTS
from svdistill.linalg.solvers import SOLVERS
from svdistill.losses import FSPLoss, PositionSVDLoss, SoftTargetLoss, SumLoss, SVDLoss
from svdistill.losses.transfer import TransferLoss

STEPS = 0.1  # of the cases are steps of a distiller
KINDS = ("SVDLoss", "PositionSVDLoss", "FSPLoss", "SoftTargetLoss", "SumLoss")
MOST_ENTRIES = 2**14  # of one feature map; every thirtieth case has 32 times as many


@dataclass
class Case:
    """What a loss is given, and what is known of it."""

    kind: str
    loss: TransferLoss
    solver: str
    gradient: str
    vectors: int
    dtype: torch.dtype
    samples: list[str]
    student: list[Tensor]
    student_logits: Tensor
    teacher: list[Tensor]
    teacher_logits: Tensor
    broken: list[str] = field(default_factory=list)

    def reordered(self, order: list[int]) -> Case:
        """With other samples of its own in the places of its samples."""
        return replace(
            self,
            samples=[self.samples[i] for i in order],
            student=[feature[order] for feature in self.student],
            student_logits=self.student_logits[order],
            teacher=[feature[order] for feature in self.teacher],
            teacher_logits=self.teacher_logits[order],
        )

    def __str__(self) -> str:
        """In a line, for whoever runs it again."""
        shapes = " ".join("x".join(map(str, feature.shape)) for feature in self.student)
        loss = " ".join(str(self.loss).split())
        return (
            f"{loss} solver={self.solver} {str(self.dtype)[6:]} {shapes} "
            f"samples={','.join(sorted(set(self.samples)))} "
            f"broken={','.join(self.broken) or 'none'}"
        )


@dataclass
class StepCase:
    """Steps of a distiller of two small networks, on images of which some are bad."""

    distiller: Distiller
    images: Tensor
    labels: Tensor
    progress: float
    kinds: list[str]
    kind: str = "Distiller"

    def __str__(self) -> str:
        """In a line, for whoever runs it again."""
        loss = " ".join(str(self.distiller.loss).split())
        return f"Distiller {loss} clip={self.distiller.clip} images={','.join(self.kinds)}"


def make_step(seed: int, number: int) -> StepCase:
    """The numbered case of a seed, as steps."""
    draw = random.Random(f"{seed} {number}")
    torch.manual_seed(draw.randrange(2**40))
    loss = _loss(draw, draw.choice(KINDS), draw.choice((1, 2, 4)), draw.choice(list(GRADIENTS)))
    clip = draw.choice((*CLIPS, "amortised"))
    teacher, student = (_network(draw.choice((1e-10, 1e-3, 1.0, 1.0, 1e3))) for _ in range(2))
    images = torch.randn(draw.randint(1, 6), 3, 8, 8)
    kinds = []
    for image in images:
        kinds.append(
            draw.choice((*[ORDINARY] * 5, "zero", "constant", "tiny", "huge", "nan", "inf"))
        )
        change = {"zero": 0.0, "tiny": 1e-30, "huge": 1e6}.get(kinds[-1], 1.0)
        image *= change
        if kinds[-1] == "constant":
            image.fill_(0.3)
        if kinds[-1] in BROKEN:
            image[0, draw.randrange(8), 0] = float(kinds[-1])
    distiller = Distiller(teacher, student, loss, taps=["0", "2"], clip=clip)
    labels = torch.randint(0, 5, (len(images),))
    return StepCase(distiller, images, labels, draw.choice((0.0, 3.0, 100.0)), kinds)


def _network(scale: float) -> nn.Sequential:
    """Two convolutions of a scale, and a classifier."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 4 * 4, 5)),
    )
    with torch.no_grad():
        for parameter in network[0].parameters():
            parameter.mul_(scale)
    return network


def make_case(seed: int, number: int) -> Case | StepCase:
    """The numbered case of a seed."""
    if random.Random(f"{number} {seed}").random() < STEPS:
        return make_step(seed, number)
    draw = random.Random(f"{seed} {number}")
    dtype, kind = draw.choice(DTYPES), draw.choice((*KINDS[:2], *KINDS))
    solver, gradient = draw.choice(list(SOLVERS)), draw.choice(list(GRADIENTS))
    vectors = draw.choice((1, 1, 2, 3, 4, 8, 16))
    most = MOST_ENTRIES * (32 if draw.random() < 1 / 30 else 1)
    batch, student_shapes, teacher_shapes = _shapes(draw, kind, most)
    samples = sample_kinds(draw, batch)
    teachers = samples if draw.random() < 0.3 else [ORDINARY] * batch
    student = [feature_map(draw, samples, shape, dtype) for shape in student_shapes]
    teacher = [feature_map(draw, teachers, shape, dtype) for shape in teacher_shapes]
    classes = draw_size(draw, 512)
    logits = [
        feature_map(draw, kinds, (classes,), dtype)
        for kinds in (samples if draw.random() < 0.3 else [ORDINARY] * batch, [ORDINARY] * batch)
    ]
    case = Case(
        kind,
        _loss(draw, kind, vectors, gradient),
        *(solver, gradient, vectors, dtype, samples),
        *(student, logits[0], teacher, logits[1]),
    )
    if draw.random() < 0.1:
        _break(draw, case)
    return case


def _shapes(
    draw: random.Random, kind: str, most: int
) -> tuple[int, list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The batch, and of each tap a student's and a teacher's shape."""
    batch = draw_size(draw, 512 if draw.random() < 0.1 else 16)
    taps = draw.choice((2, 2, 3))
    most = max(1, most // batch)
    layout = draw.choice(("map", "map", "map", "tokens", "vectors"))
    if layout == "vectors" and kind == "PositionSVDLoss":
        layout = "map"
    tokens = draw_size(draw, min(512, most))
    students: list[tuple[int, ...]] = []
    teachers: list[tuple[int, ...]] = []
    for _ in range(taps):
        channels = draw_size(draw, 512)
        others = draw_size(draw, 512) if kind == "PositionSVDLoss" else channels
        if layout == "vectors":
            students.append((channels,))
            teachers.append((channels,))
        elif layout == "tokens":
            fewer = max(1, most // tokens)
            students.append((tokens, min(channels, fewer)))
            teachers.append((tokens, min(others, fewer)))
        else:
            height = draw_size(draw, min(512, most))
            width = draw_size(draw, min(512, max(1, most // height)))
            fewer = max(1, most // (height * width))
            students.append((min(channels, fewer), height, width))
            same = kind != "PositionSVDLoss" and draw.random() < 0.7
            size = (height, width) if same else (draw_size(draw, 8), draw_size(draw, 8))
            teachers.append((min(others, fewer), *size))
    if kind == "SumLoss" or kind == "FSPLoss":
        teachers = list(students)
    return batch, students, teachers


def _loss(draw: random.Random, kind: str, vectors: int, gradient: str) -> TransferLoss:
    reduction = draw.choice(("sum", "mean"))
    svd = SVDLoss(vectors, draw.choice((8.0, 8.0, 1.0, 0.1)), gradient, reduction)
    if kind == "SVDLoss":
        return svd
    if kind == "PositionSVDLoss":
        return PositionSVDLoss(vectors, reduction)
    if kind == "FSPLoss":
        return FSPLoss()
    if kind == "SoftTargetLoss":
        return SoftTargetLoss(draw.choice((1.0, 4.0, 20.0)))
    return SumLoss([svd, FSPLoss(), SoftTargetLoss()], [1.0, draw.choice((0.0, 0.5)), 0.9])


def _break(draw: random.Random, case: Case) -> None:
    """Put NaN or infinity where the loss reads."""
    kind = draw.choice(BROKEN)
    who = draw.choice(("student", "student", "teacher"))
    if case.kind == "SoftTargetLoss":
        name = f"{who}_logits"
        setattr(case, name, broken(draw, getattr(case, name), kind))
    else:
        features = getattr(case, who)
        tap = draw.randrange(len(features))
        features[tap] = broken(draw, features[tap], kind)
        name = f"{who}'s tap {tap}"
    case.broken.append(f"{kind} in {name}")
