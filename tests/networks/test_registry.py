"""Tests of every network that `build_network` builds."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.common.errors import ArgumentError
from svdistill.networks import (
    build_network,
    input_spec,
    is_code,
    is_zoo,
    network_names,
    pretrained_classes,
)
from svdistill.networks.paper import scale_channels

ALL = network_names()
TEACHERS_AND_STUDENTS = [
    ("vgg_teacher", "vgg_student"),
    ("vgg_teacher", "vgg_stride_student"),
    ("mobilenet_teacher", "mobilenet_student"),
    ("resnext_teacher", "resnext_student"),
]
INNER_SHAPES = {  # tap shapes at 3 x 32 x 32, worked out by hand
    "vgg": [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)],
    "mobilenet": [(128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4)],
    "resnext": [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)],
}


def tap_shapes(network: nn.Module, images: torch.Tensor) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    for path in network.tap_paths:
        network.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:]))
        )
    network(images)
    return shapes


def test_names_are_the_documented_ones():
    assert set(ALL) == {
        "vgg_teacher",
        "vgg_student",
        "vgg_stride_student",
        "mobilenet_teacher",
        "mobilenet_student",
        "resnext_teacher",
        "resnext_student",
    }


@pytest.mark.parametrize("name", ALL)
def test_tap_shapes_at_full_width(name):
    shapes = tap_shapes(build_network(name, 100).eval(), torch.zeros(1, 3, 32, 32))
    assert shapes == INNER_SHAPES[name.split("_")[0]]


@pytest.mark.parametrize("name", ALL)
def test_tap_shapes_double_where_images_do(name):
    with torch.device("meta"):
        shapes = tap_shapes(build_network(name, 200).eval(), torch.zeros(1, 3, 64, 64))
    inner = INNER_SHAPES[name.split("_")[0]]
    assert shapes == [(channels, 2 * side, 2 * side) for channels, side, _ in inner]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("side", [16, 32, 64])
def test_image_sizes(name, side):
    network = build_network(name, num_classes=7, width=0.125)
    logits = network(torch.randn(2, 3, side, side))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 1), (7, 8), (28, 28), (33, 65)])
def test_small_odd_and_oblong_images(name, shape):
    network = build_network(name, num_classes=3, width=0.125).eval()
    assert network(torch.randn(1, 3, *shape)).shape == (1, 3)


@pytest.mark.parametrize(("teacher", "student"), TEACHERS_AND_STUDENTS)
@pytest.mark.parametrize("side", [8, 28, 32, 33])
def test_teacher_and_student_taps_have_equal_size(teacher, student, side):
    images = torch.zeros(1, 3, side, side)
    ours, theirs = (
        tap_shapes(build_network(name, 5, width=0.125).eval(), images)
        for name in (teacher, student)
    )
    assert ours == theirs


@pytest.mark.parametrize("name", ALL)
def test_width_scales_every_stage(name):
    images = torch.zeros(1, 3, 32, 32)
    half = tap_shapes(build_network(name, 5, width=0.5).eval(), images)
    full = INNER_SHAPES[name.split("_")[0]]
    assert [shape[0] * 2 for shape in half] == [shape[0] for shape in full]
    assert [shape[1:] for shape in half] == [shape[1:] for shape in full]


@pytest.mark.parametrize("width", [1e-6, 0.03, 0.3, 0.77, 1, 1.5])
@pytest.mark.parametrize("name", ALL)
def test_awkward_widths_build(name, width):
    with torch.device("meta"):
        network = build_network(name, num_classes=1, width=width).eval()
        assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 1)


def test_width_scales_hidden_layers():
    linear = [
        m for m in build_network("vgg_teacher", 9, 0.25).modules() if isinstance(m, nn.Linear)
    ]
    assert [(m.in_features, m.out_features) for m in linear] == [(512, 256), (256, 256), (256, 9)]


def test_scale_channels_never_falls_as_width_grows():
    counts = [scale_channels(64, step / 100) for step in range(1, 200)]
    assert counts == sorted(counts)
    assert all(count % 4 == 0 for count in counts)


@pytest.mark.parametrize("name", ALL)
def test_backward_reaches_every_parameter(name):
    torch.manual_seed(0)
    network = build_network(name, num_classes=10, width=0.25)
    F.cross_entropy(network(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().sum() > 0, path
        assert parameter.grad.isfinite().all(), path


@pytest.mark.parametrize("name", ALL)
def test_he_initialisation(name):
    torch.manual_seed(0)
    for path, module in build_network(name, num_classes=100).named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        fan_in = module.weight[0].numel()
        expected = math.sqrt(2 / fan_in)
        # Five standard errors of a sample standard deviation and of a sample mean.
        count = module.weight.numel()
        assert abs(module.weight.std() / expected - 1) < 5 / math.sqrt(2 * count), path
        assert abs(module.weight.mean()) < 5 * expected / math.sqrt(count), path
        assert module.bias is None or not module.bias.any(), path


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_network(name):
    images = torch.randn(2, 3, 32, 32)
    logits = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        logits.append(build_network(name, 10, 0.25).eval()(images))
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


@pytest.mark.parametrize("name", ALL)
def test_state_dict_round_trip(name):
    source, target = build_network(name, 10, 0.25).eval(), build_network(name, 10, 0.25).eval()
    images = torch.randn(2, 3, 16, 16)
    assert not torch.equal(source(images), target(images))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(images), target(images))


@pytest.mark.parametrize("name", ALL)
def test_taps_are_not_changed_after_they_were_recorded(name):
    network = build_network(name, 10, 0.25).eval()
    recorded = {}
    for path, module in network.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, path=path: recorded.update(
                {path: (output, output.clone())}
            )
        )
    network(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(output, copy) for output, copy in recorded.values())


@pytest.mark.parametrize("name", ["vgg_student", "resnext_student"])
def test_compiles_to_the_same_logits(name):
    torch._dynamo.reset()
    network = build_network(name, 10, 0.25).eval()
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), network(images))


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ArgumentError, match=r"name: .*'vgg_teachr'; did you mean 'vgg_teacher'"):
        build_network("vgg_teachr", 10)


@pytest.mark.parametrize("name", ["", None, 3, "VGG_TEACHER", ["vgg_teacher"]])
def test_wrong_names(name):
    with pytest.raises(ArgumentError, match="name: expected one of 'vgg_teacher'"):
        build_network(name, 10)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, "10", True, None])
def test_wrong_class_counts(num_classes):
    with pytest.raises(ArgumentError, match="num_classes: expected an integer of at least 1"):
        build_network("vgg_student", num_classes)


@pytest.mark.parametrize("width", [0, -0.5, math.inf, math.nan, "1", True, None])
def test_wrong_widths(width):
    with pytest.raises(ArgumentError, match="width: expected a positive finite number"):
        build_network("vgg_student", 10, width)


@pytest.mark.parametrize(
    ("name", "zoo", "code"),
    [
        ("vgg_student", False, False),
        ("timm:resnet18", True, False),
        ("torchvision:", True, False),
        ("hf:./folder", True, False),
        ("my.nets:build", False, True),
        (":build", False, True),
        ("timm", False, False),
        ("TIMM:resnet18", False, True),
        (None, False, False),
    ],
)
def test_what_a_name_means(name, zoo, code):
    assert (is_zoo(name), is_code(name)) == (zoo, code)


def test_networks_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "nets_of_ones_own.py").write_text(
        "from torch import nn\ndef build(num_classes):\n    return nn.Linear(3, num_classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert build_network("nets_of_ones_own:build", 7).out_features == 7
    assert input_spec("nets_of_ones_own:build") is None
    assert pretrained_classes("nets_of_ones_own:build") is None
    with pytest.raises(ArgumentError, match=r"^width: expected 1 with a network that is none of"):
        build_network("nets_of_ones_own:build", 7, width=0.5)
    with pytest.raises(ArgumentError, match=r"^network: expected a module"):
        build_network("absent_nets:build", 7)


@pytest.mark.parametrize("name", ["vgg_student", "my_nets:build"])
def test_only_libraries_publish_weights(name):
    with pytest.raises(ArgumentError, match=rf"^pretrained: .*got '{name}'"):
        build_network(name, 10, pretrained=True)


@pytest.mark.parametrize(
    ("library", "name"),
    [("timm", "timm:resnet18"), ("torchvision", "torchvision:resnet18"), ("transformers", "hf:.")],
)
def test_a_library_that_is_missing_is_named_with_the_command(library, name, monkeypatch):
    def absent(module, *arguments):
        if module.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return importlib.__import__(module)

    monkeypatch.setattr("importlib.import_module", absent)
    monkeypatch.setattr("svdistill.networks.torchvision_models._libraries", [None])
    with pytest.raises(ArgumentError, match=rf"^{library}: .*pip install 'svdistill\[zoo\]'"):
        build_network(name, 10)
