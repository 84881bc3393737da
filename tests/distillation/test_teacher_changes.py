"""A teacher that changes teaches what it is now."""

import copy
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.distillation import FrozenTeacher
from svdistill.distillation.teacher_changes import Attributes, NotWatchableError, Weights
from svdistill.distillation.teacher_forms import trace

FACTOR = 1.0


def scaled(maps):
    return maps * FACTOR


class Teacher(nn.Module):
    """Reads values of all kinds in its forward pass."""

    of_class = 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()
        )
        self.fixed = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.register_buffer("statistics", torch.rand(4) + 0.5)
        self.width = 1.0
        self.weights = [1.0, [1.0]]
        self.options = {"scale": 1.0}
        self.config = types.SimpleNamespace(inner=types.SimpleNamespace(scale=1.0))
        self.activation = F.relu
        self.depth = 2

    def forward(self, images):
        maps = self.body(images) * self.width * self.weights[0] * self.weights[1][0]
        maps = maps * self.options["scale"] * self.config.inner.scale * self.of_class * FACTOR
        # A trace that took buffers for constants would hold the root.
        maps = self.activation(maps - 0.1) * self.statistics.sqrt()[:, None, None]
        for _ in range(self.depth):
            maps = self.fixed(maps)
        return maps.mean((2, 3))


def images(seed=0):
    return torch.rand(3, 3, 10, 10, generator=torch.Generator().manual_seed(seed))


CHANGES = {
    "a convolution by .data": lambda t: t.body[0].weight.data.mul_(2),
    "a bias by .data": lambda t: t.body[0].bias.data.add_(1),
    "a packed convolution by .data": lambda t: t.body[3].weight.data.mul_(2),
    "one of 1x1 by .data": lambda t: t.fixed[0].weight.data.mul_(-1),
    "a norm's mean by .data": lambda t: t.body[1].running_mean.data.sub_(1),
    "a norm's weight by .data": lambda t: t.body[1].weight.data.mul_(3),
    "one element": lambda t: t.body[3].weight.data[3, 3, 2, 2].add_(5),
    "NaN": lambda t: t.body[0].bias.data.fill_(float("nan")),
    "through numpy": lambda t: np.multiply(
        t.body[0].weight.numpy(), 2, out=t.body[0].weight.numpy()
    ),
    "a buffer by .data": lambda t: t.statistics.data.mul_(4),
    "another dtype and back": lambda t: t.half().float(),
    "an attribute": lambda t: setattr(t, "width", 0.25),
    "an attribute of a new name": lambda t: setattr(t, "forward", lambda x: x[:, 0, :4, 0]),
    "in a list": lambda t: t.weights.__setitem__(0, 3.0),
    "in a list of a list": lambda t: t.weights[1].__setitem__(0, 3.0),
    "in a dictionary": lambda t: t.options.update(scale=3.0),
    "in an object of an object": lambda t: setattr(t.config.inner, "scale", 3.0),
    "a function": lambda t: setattr(t, "activation", torch.tanh),
    "a number of rounds": lambda t: setattr(t, "depth", 3),
    "a norm's eps": lambda t: setattr(t.body[1], "eps", 1.0),
    "a convolution's dilation": lambda t: setattr(t.body[3], "dilation", (2, 2)),
}


def assert_right(teacher, seed=0):
    with torch.no_grad():
        expected = copy.deepcopy(teacher.model)(images(seed))
    found = teacher.run(images(seed)).output
    torch.testing.assert_close(found.clone(), expected, equal_nan=True, rtol=1e-4, atol=1e-5)


def built(kind=Teacher):
    teacher = FrozenTeacher(kind(), [], needs_logits=True)
    for seed in (0, 0, 1):
        assert_right(teacher, seed)
    return teacher


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(change):
    teacher = built()
    assert teacher.form == "traced"
    before = teacher.run(images()).output.clone()
    CHANGES[change](teacher.model)
    for seed in (0, 0, 1):
        assert_right(teacher, seed)
    if "back" not in change:
        assert not torch.allclose(teacher.run(images()).output, before, rtol=1e-3)


def test_a_change_of_the_class_or_of_a_global_is_seen(monkeypatch):
    teacher = built()
    monkeypatch.setattr(Teacher, "of_class", 2.0)
    assert_right(teacher)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert_right(teacher)
    monkeypatch.setattr(Teacher, "forward", lambda self, images: self.body(images).mean((2, 3)))
    assert_right(teacher)


def test_a_value_read_elsewhere_is_seen_after_refresh(monkeypatch):
    class Indirect(Teacher):
        def forward(self, images):
            return scaled(self.body(images)).mean((2, 3))

    teacher = built(Indirect)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    teacher.refresh()
    for _ in range(2):
        assert_right(teacher)
    assert teacher.form == "traced"


def test_an_equal_value_is_no_change():
    teacher = built()
    forms = teacher._forms
    for _ in range(10):
        teacher.model.width = float("1.0")
        teacher.model.weights = [1.0, [1.0]]
        assert_right(teacher)
    assert teacher._forms is forms


def test_a_model_that_changes_in_every_step_is_traced_no_more():
    teacher = built()
    for seed in range(6):
        teacher.model.body[0].weight.data.mul_(0.9)
        assert_right(teacher, seed)
    assert teacher.form == "whole"
    runs = []
    teacher.model.body.register_forward_hook(lambda *_: runs.append(1))
    teacher.run(images())
    runs.clear()
    for _ in range(3):
        teacher.model.body[0].weight.data.mul_(0.9)
        teacher.run(images())
    assert len(runs) == 3


class Counting(Teacher):
    """Its forward pass changes what the next one reads."""

    def forward(self, images):
        self.width = self.width * 1.00001
        return super().forward(images)


class Remembering(Teacher):
    def forward(self, images):
        self.seen = images
        return super().forward(images)


def test_a_model_that_changes_its_own_attributes_is_not_traced():
    teacher = FrozenTeacher(Counting(), [], needs_logits=True)
    widths = []
    for _ in range(3):
        assert_right(teacher)
        widths.append(teacher.model.width)
    assert teacher.form == "whole"
    assert len(set(widths)) == 3
    teacher = FrozenTeacher(Remembering(), [], needs_logits=True)
    for _ in range(3):
        teacher.run(images())
        assert type(teacher.model.seen) is torch.Tensor  # not a placeholder of the trace
    assert teacher.form == "whole"


@pytest.mark.parametrize("value", [torch.ones(4), [torch.ones(4)], np.ones(4)], ids=type)
def test_tensors_outside_of_parameters_and_buffers(value):
    """They could be written to unseen."""

    class Holding(Teacher):
        def __init__(self):
            super().__init__()
            self.held = value

        def forward(self, images):
            held = self.held[0] if isinstance(self.held, list) else self.held
            return super().forward(images) * float(held[0])

    teacher = built(Holding)
    held = teacher.model.held[0] if isinstance(value, list) else teacher.model.held
    held *= 2
    assert_right(teacher)
    with pytest.raises(NotWatchableError):
        Attributes(list(teacher.model.modules()))


def test_attributes_that_refer_to_one_another():
    model = nn.Identity()
    model.options = {"of": model}
    model.options["options"] = model.options
    attributes = Attributes([model])
    assert attributes.unchanged()
    model.options["more"] = 1
    assert not attributes.unchanged()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 2, 2), (5, 1, 3)])
def test_every_bit_counts(shape, dtype):
    tensor = torch.ones(shape, dtype=dtype)
    if tensor.ndim == 4:
        tensor = tensor.to(memory_format=torch.channels_last)[:, 1:]
    weights = Weights([tensor, tensor])
    assert weights.unchanged()
    if tensor.numel():
        tensor.view(-1)[-1:].data.mul_(-1) if tensor.is_contiguous() else tensor[-1].data.mul_(-1)
        assert not weights.unchanged()


def test_elsewhere_than_on_a_cpu_nothing_is_copied():
    """There a comparison would wait for the device."""
    model = Teacher().eval().to("meta")
    traced, copied = trace(model, [], keep_output=True)
    assert copied == ()
    assert traced.get_submodule("body.0") is model.body[0]
    assert traced.get_submodule("body.1") is model.body[1]
