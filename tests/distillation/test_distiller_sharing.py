"""Parts that teacher, student and loss have in common; teachers that change; what is saved."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import svdistill as sd
from svdistill.common.errors import ArgumentError
from svdistill.losses import SoftTargetKnowledge, TransferLoss


def stem():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


def body():
    return nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())


def net(first=None, second=None):
    return nn.Sequential(first or stem(), second or body(), nn.Flatten(), nn.Linear(8 * 16, 5))


IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def step(distiller, **options):
    out = distiller(IMAGES)
    distiller.backward(F.cross_entropy(out.logits, LABELS), out, progress=0, **options)
    return out


def by_hand(teacher, student):
    """Knowledge of the teacher in eval mode; the student's batch statistics and gradients after."""
    teacher, student = copy.deepcopy((teacher, student))
    student.train()
    modes = [(module, module.training) for module in student.modules()]
    teacher.eval()
    with torch.no_grad():
        logits = teacher(IMAGES)
    for module, training in modes:
        module.training = training
    found = student(IMAGES)
    loss = sd.SoftTargetLoss()
    transfer = loss([], found, SoftTargetKnowledge(logits))
    (F.cross_entropy(found, LABELS) + transfer).backward()
    return logits, student


def shares_a_module():
    first = stem()
    return net(first), net(first)


def ties_a_parameter():
    teacher, student = net(), net()
    student[0][0].weight = teacher[0][0].weight
    return teacher, student


def student_within_the_teacher():
    student = net()
    return nn.Sequential(student, nn.Linear(5, 5)), student


def all_but_the_top_module():
    parts = stem(), body(), nn.Flatten(), nn.Linear(8 * 16, 5)
    return nn.Sequential(*parts), nn.Sequential(*parts)


SHARED = [shares_a_module, ties_a_parameter, student_within_the_teacher, all_but_the_top_module]


@pytest.mark.parametrize("networks", SHARED)
def test_what_both_have_is_trained_with_the_student(networks):
    torch.manual_seed(0)
    teacher, student = networks()
    own = set(map(id, teacher.parameters())) - set(map(id, student.parameters()))
    distiller = sd.Distiller(teacher, student, sd.SoftTargetLoss(), taps=[], clip="none").train()
    assert len(distiller.trainable_parameters()) == len(list(student.parameters()))
    assert all(p.requires_grad == (id(p) not in own) for p in teacher.parameters())
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    for _ in range(6):
        logits, expected = by_hand(teacher, student)
        torch.testing.assert_close(distiller.teach(IMAGES).logits, logits)
        step(distiller)
        assert all(module.training for module in student.modules())
        for found, wanted in zip(student.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)
        for found, wanted in zip(student.buffers(), expected.buffers(), strict=True):
            torch.testing.assert_close(found, wanted)
        optimizer.step()
        optimizer.zero_grad()
    students = set(map(id, student.modules()))
    assert not any(m.training for m in teacher.modules() if id(m) not in students)
    assert not any(module.training for module in distiller.eval().student.modules())


def test_an_early_exit_with_taps():
    teacher = nn.Sequential(stem(), body(), body(), nn.Flatten(), nn.Linear(8 * 4, 5))
    student = nn.Sequential(teacher[0], teacher[1], nn.Flatten(), nn.Linear(8 * 16, 5))
    taps = sd.TapPairs(teacher=("0", "1"), student=("0", "1"))
    distiller = sd.Distiller(teacher, student, sd.SVDLoss(), taps=taps).train()
    step(distiller)
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher[2].parameters())


def test_frozen_by_the_user_stays_frozen():
    teacher, student = shares_a_module()
    student[0].requires_grad_(False)
    distiller = sd.Distiller(teacher, student, sd.SoftTargetLoss(), taps=[])
    step(distiller.train())
    assert student[0][0].weight.grad is None


def test_a_student_that_contains_the_teacher_is_refused():
    teacher = net()
    with pytest.raises(ArgumentError, match=r"^student: .*module '0' is the teacher; .*deepcopy"):
        sd.Distiller(teacher, nn.Sequential(teacher, nn.Linear(5, 5)), sd.SoftTargetLoss(), taps=[])
    assert all(parameter.requires_grad for parameter in teacher.parameters())


class Reuses(TransferLoss):
    """Holds a classifier, as SimKD does."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def extract(self, features, logits):
        return SoftTargetKnowledge(logits)

    def forward(self, features, logits, knowledge):
        return (self.head(features[-1].flatten(1)) - knowledge.logits).square().mean()


@pytest.mark.parametrize("clip", ["none", "norm", "global", "amortised"])
def test_a_part_of_the_student_in_the_loss_gets_its_gradient_once(clip):
    torch.manual_seed(0)
    teacher, student = net(), net()
    distiller = sd.Distiller(teacher, student, Reuses(student[3]), taps=["0", "1"], clip=clip)
    listed = distiller.trainable_parameters()
    assert list(map(id, listed)) == list(map(id, student.parameters()))
    out = distiller(IMAGES)
    task = F.cross_entropy(out.logits, LABELS)
    g_all, h_all = (
        torch.autograd.grad(loss, listed, retain_graph=True) for loss in (task, out.transfer_loss)
    )
    distiller.backward(task, out, progress=50)  # where the bound is the task's norm itself

    def norm(tensors):
        return torch.cat([tensor.flatten() for tensor in tensors]).norm()

    for parameter, g, h in zip(listed, g_all, h_all, strict=True):
        scale = {
            "none": 1.0,
            "norm": float(g.norm() / h.norm()),
        }.get(clip, float(norm(g_all) / norm(h_all)))
        torch.testing.assert_close(parameter.grad, g + min(1.0, scale) * h, rtol=1e-4, atol=1e-6)


def test_a_part_of_the_teacher_in_the_loss_stays_frozen():
    teacher = net()
    teacher[3] = nn.Sequential(nn.Dropout(), teacher[3])
    distiller = sd.Distiller(teacher, net(), Reuses(teacher[3]), taps=["0", "1"]).train()
    assert not any(module.training for module in teacher.modules())
    step(distiller)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_mean_teacher():
    torch.manual_seed(0)
    teacher, student = net(), net()
    distiller = sd.Distiller(teacher, student, sd.SoftTargetLoss(), taps=[], clip="none").train()
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    for _ in range(6):
        with torch.no_grad():
            expected = copy.deepcopy(teacher)(IMAGES)
        torch.testing.assert_close(distiller.teach(IMAGES).logits, expected)
        step(distiller)
        optimizer.step()
        optimizer.zero_grad()
        for mean, now in zip(teacher.parameters(), student.parameters(), strict=True):
            mean.data.mul_(0.5).add_(now.data, alpha=0.5)


def test_another_teacher_student_or_loss():
    """Assigned afterwards, they are those that run."""
    distiller = sd.Distiller(net(), net(), sd.SVDLoss(), taps=["0", "1"])
    distiller(IMAGES)
    other, distiller.student = net(), net()
    distiller.teacher, distiller.loss = other, sd.SoftTargetLoss()
    out = distiller.eval()(IMAGES)
    torch.testing.assert_close(out.logits, distiller.student(IMAGES))
    torch.testing.assert_close(distiller.teach(IMAGES).logits, other(IMAGES))
    assert not any(parameter.requires_grad for parameter in other.parameters())
    with pytest.raises(ArgumentError, match="deepcopy"):
        distiller.teacher = distiller.student
    distiller.teacher = None
    with pytest.raises(ArgumentError, match="no teacher"):
        distiller(IMAGES)


def with_everything(teacher, student):
    class Scaled(sd.SoftTargetLoss):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, features, logits, knowledge):
            return self.scale * super().forward(features, logits, knowledge)

    return sd.Distiller(
        teacher,
        student,
        Scaled(),
        taps=["0", "1"],
        adapters=sd.Adapters([8, 8], [8, 16]),
        unclipped=sd.SVDLoss(),
    )


@pytest.mark.parametrize("at", ["", "inner."])
def test_saved_and_loaded(at):
    teacher = net(second=nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU()))
    teacher[3] = nn.Linear(256, 5)
    torch.manual_seed(0)
    first, second = (with_everything(copy.deepcopy(teacher), net()) for _ in "ab")
    with torch.no_grad():
        first.loss.scale.fill_(3.0)
    outer = [nn.ModuleDict({"inner": d}) if at else d for d in (first, second)]
    state = outer[0].state_dict()
    expected = {f"{at}student.{name}" for name in first.student.state_dict()}
    expected |= {f"{at}adapters.{name}" for name in first.adapters.state_dict()}
    assert set(state) == {*expected, f"{at}loss.scale"}
    result = outer[1].load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    with torch.no_grad():
        torch.testing.assert_close(first.eval()(IMAGES), second.eval()(IMAGES), rtol=0, atol=0)
    del state[f"{at}student.0.0.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*student\.0\.0\.weight"):
        outer[1].load_state_dict(state)


def test_resumed_within_an_epoch_with_the_carried_state():
    torch.manual_seed(0)
    first = sd.Distiller(net(), net(), sd.SVDLoss(), taps=["0", "1"]).train()
    second = copy.deepcopy(first)
    for _ in range(2):
        step(first)
        for parameter in first.trainable_parameters():
            parameter.grad = None
    second.load_state_dict(first.state_dict())
    second.load_carried_state(first.carried_state())
    for distiller in (first, second):
        step(distiller)
    pairs = zip(first.student.parameters(), second.student.parameters(), strict=True)
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in pairs)


def test_the_teacher_follows_to():
    distiller = sd.Distiller(net(), net(), sd.SoftTargetLoss(), taps=[]).double()
    assert distiller.teacher[0][0].weight.dtype == torch.float64
    assert distiller(IMAGES.double()).transfer_loss.dtype == torch.float64
    assert not any(name.startswith("teacher") for name, _ in distiller.named_parameters())
