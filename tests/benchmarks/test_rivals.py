"""Losses of other papers with modules of their own, against their formulas in numpy."""

import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.distillation import Distiller
from svdistill.taps import TapPairs, describe_pairs

# Channels, height and width: the student's first map is higher than its teacher's, its last lower.
STUDENT = [(3, 8, 6), (4, 4, 3), (5, 2, 2)]
TEACHER = [(4, 4, 6), (6, 4, 3), (2, 4, 4)]
NAMES = ["VIDLoss", "ReviewKDLoss"]


@pytest.fixture
def rivals(load_script):
    return load_script("rivals")


def maps(shapes, seed, images=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, *shape, generator=generator).double() for shape in shapes]


def made(rivals, name, student=STUDENT, teacher=TEACHER):
    """In float64, with other weights than the first ones."""
    torch.manual_seed(0)
    loss = getattr(rivals, name)()
    loss.prepare([shape[0] for shape in student], [shape[0] for shape in teacher])
    for parameter in loss.parameters():
        nn.init.uniform_(parameter, -1.0, 1.0)
    return loss.double()


def value(loss, student, teacher):
    return loss(student, None, loss.extract(teacher, None))


def average(array, size):
    """Average-pooled [B, D, H, W], whose sides are multiples of the new ones."""
    (b, d, h, w), (to_h, to_w) = array.shape, size
    return array.reshape(b, d, to_h, h // to_h, to_w, w // to_w).mean((3, 5))


def project(weight, array):
    return np.einsum("ij,bjhw->bihw", weight, array)


def vid_in_numpy(state, student, teacher):
    total = 0.0
    for tap, (s, t) in enumerate(zip(student, teacher, strict=True)):
        size = [min(sides) for sides in zip(s.shape[2:], t.shape[2:], strict=True)]
        s, t = average(s, size), average(t, size)
        for layer in (0, 2, 4):
            s = project(state[f"regressors.{tap}.{layer}.weight"], s)
            s = np.maximum(s, 0) if layer < 4 else s
        variance = np.log1p(np.exp(state[f"variances.{tap}"])) + 1e-5
        variance = variance[None, :, None, None]
        total += 0.5 * np.mean((s - t) ** 2 / variance + np.log(variance))
    return total


def normalised(array, weight, bias):
    mean, var = (f(array, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    array = (array - mean) / np.sqrt(var + 1e-5)
    return array * weight[None, :, None, None] + bias[None, :, None, None]


def nearest(array, size):
    rows, columns = (
        np.arange(new) * old // new for old, new in zip(array.shape[2:], size, strict=True)
    )
    return array[:, :, rows][..., columns]


def convolved(weight, array):
    height, width = array.shape[2:]
    array = np.pad(array, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return sum(
        project(weight[:, :, i, j], array[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    )


def review_in_numpy(state, student, teacher):
    total, after = 0.0, None
    for tap in reversed(range(len(student))):
        part = {k.removeprefix(f"fusions.{tap}."): v for k, v in state.items()}
        fused = project(part["project.0.weight"][:, :, 0, 0], student[tap])
        fused = normalised(fused, part["project.1.weight"], part["project.1.bias"])
        if after is not None:
            after = nearest(after, fused.shape[2:])
            both = np.concatenate([fused, after], axis=1)
            scores = project(part["attention.weight"][:, :, 0, 0], both)
            scores += part["attention.bias"][None, :, None, None]
            attention = 1 / (1 + np.exp(-scores))
            fused = attention[:, :1] * fused + attention[:, 1:] * after
        after = fused = nearest(fused, teacher[tap].shape[2:])
        fused = convolved(part["output.0.weight"], fused)
        fused = normalised(fused, part["output.1.weight"], part["output.1.bias"])
        pairs = [(fused, teacher[tap])]
        sides = [side for side in (4, 2, 1) if side < fused.shape[2]]
        pairs += [(pool(fused, side), pool(teacher[tap], side)) for side in sides]
        terms = [np.mean((s - t) ** 2) for s, t in pairs]
        weights = [0.5**k for k in range(len(terms))]
        total += np.dot(weights, terms) / sum(weights)
    return total


def pool(array, side):
    """Average-pooled to side x side; torch is only asked where cells overlap."""
    if array.shape[2] % side == 0 == array.shape[3] % side:
        return average(array, (side, side))
    return F.adaptive_avg_pool2d(torch.from_numpy(array), side).numpy()


FORMULAS = {"VIDLoss": vid_in_numpy, "ReviewKDLoss": review_in_numpy}


@pytest.mark.parametrize("name", NAMES)
def test_equals_its_formula(rivals, name):
    loss, student, teacher = made(rivals, name), maps(STUDENT, 0), maps(TEACHER, 1)
    state = {key: tensor.numpy().copy() for key, tensor in loss.state_dict().items()}
    arrays = ([tap.numpy() for tap in side] for side in (student, teacher))
    expected = FORMULAS[name](state, *arrays)
    assert value(loss, student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_levels_of_the_context_loss(rivals):
    """4 x 4, 2 x 2 and 1 x 1 for a map of 8 x 8; nothing but itself for one of 1 x 1."""
    rows = torch.ones(8).double()
    rows[::2] = -1  # cancels in every pool
    difference = rows[:, None].expand(1, 2, 8, 8)
    assert rivals.context_distance(difference).item() == pytest.approx(1 / (1 + 0.5 + 0.25 + 0.125))
    assert rivals.context_distance(difference[..., :1, :1]).item() == 1.0


def test_the_first_variance_is_five(rivals):
    loss = rivals.VIDLoss()
    loss.prepare([3], [4])
    torch.nn.init.zeros_(loss.regressors[0][4].weight)
    student, teacher = torch.rand(2, 3, 3, 3), torch.zeros(2, 4, 3, 3)
    assert value(loss, [student], [teacher]).item() == pytest.approx(math.log(5) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(rivals, name):
    shapes = [(2, 3, 2), (3, 2, 2)], [(3, 3, 2), (2, 1, 2)]
    loss, teacher = made(rivals, name, *shapes), maps(shapes[1], 1, images=2)
    student = [feature.requires_grad_() for feature in maps(shapes[0], 0, images=2)]
    knowledge = loss.extract(teacher, None)
    assert torch.autograd.gradcheck(lambda *taps: loss(taps, None, knowledge), student)


@pytest.mark.parametrize("name", NAMES)
def test_trains_with_its_student(rivals, name):
    torch.manual_seed(0)
    teacher, student = (
        nn.Sequential(
            *(nn.Conv2d(3, width, 3, stride=stride), nn.ReLU(), nn.Conv2d(width, 6, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
        )
        for width, stride in ((7, 1), (4, 2))
    )
    images, labels = torch.rand(8, 3, 12, 12), torch.arange(8) % 5
    taps = describe_pairs(teacher, student, TapPairs(("1", "3"), ("1", "3")), images)
    distiller = Distiller(teacher, student, getattr(rivals, name)(), taps=taps)
    assert distiller.adapters is None
    before = {key: tensor.clone() for key, tensor in distiller.loss.named_parameters()}
    optimizer = torch.optim.Adam(distiller.trainable_parameters(), lr=0.01)
    history = []
    for step in range(10):
        output = distiller(images)
        distiller.backward(F.cross_entropy(output.logits, labels), output, progress=step)
        assert all(weight.grad.any() for weight in distiller.loss.parameters())
        optimizer.step()
        optimizer.zero_grad()
        history.append(output.transfer_loss.item())
    assert history[-1] < history[0]
    assert not any(old.equal(distiller.loss.get_parameter(key)) for key, old in before.items())
    copied = pickle.loads(pickle.dumps(distiller.loss)).eval()
    knowledge, features = distiller.teach(images), maps([(4, 5, 5), (6, 3, 3)], 0, 8)
    features = [feature.float() for feature in features]
    assert copied(features, None, knowledge) == distiller.loss.eval()(features, None, knowledge)


def test_vid_takes_tokens_and_vectors(rivals):
    shapes = [(9, 4), (5,)], [(6, 3, 3), (7,)]
    loss = rivals.VIDLoss()
    loss.prepare([4, 5], [6, 7])
    student, teacher = ([tap.float() for tap in maps(side, 0)] for side in shapes)
    assert value(loss, student, teacher).isfinite()


def test_what_does_not_fit_is_refused(rivals):
    loss, teacher = made(rivals, "ReviewKDLoss"), maps(TEACHER, 1)
    with pytest.raises(ArgumentError, match="number of taps: expected the teacher's 3, got 2"):
        value(loss, maps(STUDENT, 0)[:2], teacher)
    with pytest.raises(ArgumentError, match="images: expected the teacher's 3, got 2"):
        value(loss, maps(STUDENT, 0, images=2), teacher)
    tokens = [*maps(STUDENT, 0)[:2], torch.rand(3, 9, 5).double()]
    with pytest.raises(ArgumentError, match=r"^tap 2: expected maps .B, D, H, W.* \(3, 9, 5\)"):
        value(loss, tokens, teacher)
