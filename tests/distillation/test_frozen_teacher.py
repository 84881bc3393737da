import copy
import pickle
import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from svdistill.common.errors import ArgumentError
from svdistill.distillation import FrozenTeacher
from svdistill.distillation.teacher_changes import structure
from svdistill.networks import build_network, network_names
from svdistill.taps import FeatureTaps, Recording


def used(model: nn.Module) -> nn.Module:
    """Give batch norms statistics as training leaves them: fresh ones fold into nothing."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return model


def images(batch: int = 3, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def whole(model: nn.Module, paths: list[str], batch: Tensor) -> Recording:
    """What the untouched model gives."""
    with torch.no_grad():
        return FeatureTaps(copy.deepcopy(model).eval(), paths).run(batch)


def assert_runs_right(
    teacher: FrozenTeacher, paths: list[str], form: str, *batches: Tensor, rtol: float = 1e-4
) -> None:
    """Run every batch twice, since the first run of a kind is that of the whole model."""
    for batch in batches or (images(), images(seed=1), images(5), images(side=20)):
        expected = whole(teacher.model, paths, batch)
        for _ in range(2):
            found = teacher.run(batch)
            assert teacher.form == form
            pairs = list(zip(found.features, expected.features, strict=True))
            if teacher.needs_logits:
                pairs.append((found.output, expected.output))
            else:
                assert found.output is None
            for ours, theirs in pairs:
                assert ours.dtype == theirs.dtype
                assert not ours.requires_grad
                error = (ours - theirs).double().norm() / theirs.double().norm()
                assert ours.shape == theirs.shape
                assert error <= rtol


def conv_norm_relu(channels: int = 6) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, groups=2),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Flatten(),
    )


@pytest.mark.parametrize("needs_logits", [False, True])
@pytest.mark.parametrize("name", network_names())
def test_networks_of_the_seed(name: str, needs_logits: bool) -> None:
    torch.manual_seed(0)
    network = used(build_network(name, num_classes=5, width=0.25))
    paths = list(network.tap_paths)
    teacher = FrozenTeacher(network, paths, needs_logits=needs_logits)
    assert_runs_right(teacher, paths, "traced")
    channels_last = images().contiguous(memory_format=torch.channels_last)
    assert_runs_right(teacher, paths, "traced", channels_last)


@pytest.mark.parametrize(
    "paths", [["0"], ["1"], ["2"], ["0", "1"], ["0", "1", "2"], ["3", "0"], ["4", "3", "1"], ["5"]]
)
def test_every_tap_between_convolution_and_relu(paths: list[str]) -> None:
    torch.manual_seed(0)
    model = used(conv_norm_relu())
    expected = whole(model, paths, images())
    teacher = FrozenTeacher(model, paths, needs_logits=False)
    assert_runs_right(teacher, paths, "traced")
    for found, theirs in zip(teacher.run(images()).features, expected.features, strict=True):
        torch.testing.assert_close(found.clone(), theirs)


def test_the_model_is_left_as_it_is() -> None:
    model = used(conv_norm_relu()).eval()
    before = pickle.dumps(model.state_dict())
    modules = dict(model.named_modules())
    strides = [parameter.stride() for parameter in model.parameters()]
    teacher = FrozenTeacher(model, ["2"], needs_logits=False)
    for _ in range(2):
        teacher.run(images())
    assert teacher.form == "traced"
    assert dict(model.named_modules()) == modules
    assert pickle.dumps(model.state_dict()) == before
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert not any(parameter.requires_grad for parameter in model.parameters())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(maps + self.body(maps))


class Nowhere(nn.Module):
    """No logits in its output."""

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        return {"maps": maps}


class Nested(nn.Module):
    """A shared convolution behind two norms, blocks in a list, a tuple for output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.blocks = nn.ModuleList([Residual(), Residual()])
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        maps = self.stem(images)
        for norm in self.norms:
            maps = norm(self.shared(maps))
        for block in self.blocks:
            maps = block(maps)
        return self.head(maps.mean((2, 3))), {"maps": maps}


@pytest.mark.parametrize(
    "paths", [["norms.0", "norms.1"], ["blocks.0.body"], ["blocks.1", "blocks.0.body.0"], ["stem"]]
)
def test_nested_paths_shared_modules_and_a_tuple_for_output(paths: list[str]) -> None:
    torch.manual_seed(0)
    teacher = FrozenTeacher(used(Nested()), paths, needs_logits=False)
    assert_runs_right(teacher, paths, "traced")


def test_the_logits_are_taken_from_an_output_that_is_no_tensor() -> None:
    teacher = FrozenTeacher(used(Nested()), ["stem"], needs_logits=True)
    for batch in (images(), images(seed=1)):
        expected = whole(teacher.model, ["stem"], batch)
        for _ in range(2):
            torch.testing.assert_close(teacher.run(batch).output.clone(), expected.output[0])
    assert teacher.form == "traced"


def test_an_output_without_logits_is_refused() -> None:
    model = nn.Sequential(conv_norm_relu(), Nowhere())
    with pytest.raises(ArgumentError, match=r"^network: .*got dict with the keys 'maps'"):
        FrozenTeacher(model, ["0"], needs_logits=True).run(images())
    assert FrozenTeacher(model, ["0"], needs_logits=False).run(images()).output is None


def test_a_tap_that_runs_twice_is_found_in_every_run() -> None:
    teacher = FrozenTeacher(Nested(), ["shared"], needs_logits=False)
    for _ in range(2):
        with pytest.raises(ArgumentError, match="got 2 runs"):
            teacher.run(images())


def test_an_overwritten_last_tap_is_found() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    with pytest.raises(ArgumentError, match="overwritten in place"):
        FrozenTeacher(model, ["0"], needs_logits=False).run(images())
    teacher = FrozenTeacher(model, ["1"], needs_logits=False)
    assert_runs_right(teacher, ["1"], "traced")


class Branching(nn.Module):
    """Takes a way through its code that depends on the values of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.light, self.dark = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.end = nn.ReLU()
        self.head = nn.Linear(4, 5)
        self.heads = 0

    def forward(self, images: Tensor) -> Tensor:
        maps = self.end(self.light(images) if images.mean() > 0.5 else self.dark(images))
        self.heads += 1
        return self.head(maps.mean((2, 3)))


def test_control_flow_is_followed_as_far_as_the_last_tap() -> None:
    model = Branching()
    teacher = FrozenTeacher(model, ["end"], needs_logits=False)
    assert_runs_right(teacher, ["end"], "stopped", images(), 0.1 * images(), images() + 1)
    heads = model.heads
    teacher.run(images())
    assert model.heads == heads
    with_logits = FrozenTeacher(model, ["end"], needs_logits=True)
    assert_runs_right(with_logits, ["end"], "whole", images(), 0.1 * images())


class OverwritesSometimes(nn.Module):
    """Its traced graph has an in-place operation whose result nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        maps.clamp_(max=3)
        return self.end(maps).flatten(1)


def test_operations_in_place_are_kept() -> None:
    teacher = FrozenTeacher(OverwritesSometimes(), ["end"], needs_logits=False)
    assert_runs_right(teacher, ["end"], "traced", 0.01 * images(), 50 * images())


class KeepsItsSize(nn.Module):
    """Its trace holds the size of the first images, the one that the model was asked for first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end, self.batch = nn.Conv2d(3, 4, 3), nn.ReLU(), 0

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(images, fx.Proxy):
            return self.end(self.conv(images).reshape(self.batch, -1))
        self.batch = len(images)
        return self.end(self.conv(images).reshape(len(images), -1))


def test_another_batch_size_is_verified_anew() -> None:
    model = KeepsItsSize()
    model.batch = 4
    teacher = FrozenTeacher(model, ["end"], needs_logits=False)
    assert_runs_right(teacher, ["end"], "traced", images(4))
    assert_runs_right(teacher, ["end"], "stopped", images(2), images(4))


class Doubling(nn.Module):
    """Traces, but the trace holds only one side of a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.conv(images) * (2 if torch.is_autocast_enabled("cpu") else 1))


def test_another_setting_is_verified_anew() -> None:
    model = Doubling()
    teacher = FrozenTeacher(model, ["end"], needs_logits=False)
    assert_runs_right(teacher, ["end"], "traced", images())
    with torch.autocast("cpu", torch.bfloat16):
        assert_runs_right(teacher, ["end"], "stopped", images())
    assert_runs_right(teacher, ["end"], "stopped", images())


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.end(F.dropout(self.conv(images), 0.5, training=True))


def test_a_random_teacher_stays_random() -> None:
    teacher = FrozenTeacher(Noisy(), ["end"], needs_logits=False)
    first, second = (teacher.run(images()).features[0] for _ in range(2))
    assert not first.equal(second)
    assert teacher.form == "whole"


@pytest.mark.parametrize("needs_logits", [False, True])
def test_hooks_of_the_user_run(needs_logits: bool) -> None:
    model, calls = conv_norm_relu(), []
    teacher = FrozenTeacher(model, ["2"], needs_logits=needs_logits)
    teacher.run(images())
    assert teacher.form == "traced"
    model[1].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        teacher.run(images())
    assert teacher.form == ("whole" if needs_logits else "stopped")
    assert len(calls) >= 3


def load(model: nn.Module) -> None:
    model.load_state_dict(used(conv_norm_relu()).state_dict())


def double(model: nn.Module) -> None:
    model.double()


def edit_a_weight(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight.mul_(2)


def edit_statistics(model: nn.Module) -> None:
    model[4].running_mean.sub_(1)


def exchange_data(model: nn.Module) -> None:
    model[3].weight.data = torch.rand_like(model[3].weight)


def replace_a_module(model: nn.Module) -> None:
    model[3] = nn.Conv2d(6, 6, 3)


def replace_a_parameter(model: nn.Module) -> None:
    model[3].weight = nn.Parameter(torch.rand_like(model[3].weight), requires_grad=False)


@pytest.mark.parametrize(
    "change",
    [
        load,
        double,
        edit_a_weight,
        edit_statistics,
        exchange_data,
        replace_a_module,
        replace_a_parameter,
    ],
)
def test_changes_of_the_model_are_seen(change) -> None:
    torch.manual_seed(0)
    model = used(conv_norm_relu())
    paths = ["2", "5"]
    teacher = FrozenTeacher(model, paths, needs_logits=False)
    assert_runs_right(teacher, paths, "traced", images())
    torch.manual_seed(1)
    change(model)
    batch = images().to(model[0].weight.dtype)
    assert_runs_right(teacher, paths, "traced", batch)


@pytest.mark.parametrize("part", [None, "1"])
def test_train_mode_is_undone(part: str | None) -> None:
    model = used(conv_norm_relu())
    teacher = FrozenTeacher(model, ["2"], needs_logits=False)
    for _ in range(3):
        (model if part is None else model.get_submodule(part)).train()
        assert_runs_right(teacher, ["2"], "traced", images())
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["vgg_teacher", "mobilenet_teacher", "resnext_teacher"])
def test_bfloat16_autocast(name: str) -> None:
    torch.manual_seed(0)
    network = used(build_network(name, num_classes=5, width=0.25))
    paths = list(network.tap_paths)
    teacher = FrozenTeacher(network, paths, needs_logits=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert_runs_right(teacher, paths, "traced", images(), images(seed=1), rtol=0.03)
        assert teacher.run(images()).features[0].dtype == torch.bfloat16
    assert_runs_right(teacher, paths, "traced", images())


def test_float64() -> None:
    model = used(conv_norm_relu()).double()
    teacher = FrozenTeacher(model, ["2", "5"], needs_logits=True)
    assert_runs_right(teacher, ["2", "5"], "traced", images().double(), rtol=1e-12)


def test_weights_made_in_inference_mode() -> None:
    """They keep no count of writes."""
    with torch.inference_mode():
        model = used(nn.Sequential(*conv_norm_relu()[:3], nn.Conv2d(6, 6, 3), nn.ReLU()))
    teacher = FrozenTeacher(model, ["2", "4"], needs_logits=False)
    for _ in range(2):
        assert_runs_right(teacher, ["2", "4"], "traced", images())
        with torch.inference_mode():
            model[0].weight.mul_(2)
            model[1].running_mean.sub_(1)
            model[3].weight.mul_(2)


def test_features_become_ordinary_by_cloning_outside_inference_mode() -> None:
    teacher = FrozenTeacher(conv_norm_relu(), ["2"], needs_logits=False)
    for _ in range(3):
        with torch.inference_mode():
            knowledge = teacher.run(images()).features[0].sum(0)
        knowledge = knowledge.clone()
        student = torch.ones_like(knowledge, requires_grad=True)
        (student * knowledge).sum().backward()
        assert student.grad.equal(knowledge)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_follow_their_own_model(copied) -> None:
    teacher = FrozenTeacher(used(conv_norm_relu()), ["2"], needs_logits=False)
    teacher.run(images())
    other = copied(teacher)
    nn.init.zeros_(other.model[1].weight)
    assert_runs_right(other, ["2"], "traced", images())
    assert_runs_right(teacher, ["2"], "traced", images())
    assert not other.run(images()).features[0].equal(teacher.run(images()).features[0])


def test_a_compiled_model() -> None:
    model = torch.compile(Branching().eval(), backend="eager")
    teacher = FrozenTeacher(model, ["_orig_mod.end"], needs_logits=False)
    for seed in range(3):
        expected = whole(model._orig_mod, ["end"], images(seed=seed)).features[0]
        torch.testing.assert_close(teacher.run(images(seed=seed)).features[0].clone(), expected)
    torch._dynamo.reset()


def test_an_empty_batch() -> None:
    teacher = FrozenTeacher(conv_norm_relu(), ["2"], needs_logits=False)
    assert_runs_right(teacher, ["2"], "traced", images())
    for _ in range(2):
        assert teacher.run(images(0)).features[0].shape == (0, 6, 14, 14)


def test_a_wrong_tap_leaves_the_model_alone() -> None:
    model = conv_norm_relu()
    with pytest.raises(ArgumentError, match="taps: expected module paths"):
        FrozenTeacher(model, ["9"], needs_logits=False)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_watching_the_model_costs_little() -> None:
    """80 modules and 60 tensors: a small part of the forward pass of a small batch."""
    teacher = FrozenTeacher(build_network("mobilenet_teacher", 10), [], needs_logits=True)
    teacher.run(images(1))
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        assert structure(teacher._modules) == teacher._structure
        assert teacher._attributes.unchanged()
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 1e-3
    megabytes = sum(weight.nbytes for weight in teacher._weights._tensors) / 1e6
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        assert teacher._weights.unchanged()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3 * megabytes
