"""The paper's networks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svdistill.networks import build_network, network_names, profile_network
from svdistill.networks.paper import BranchedBlock, resnext, scale_channels, separable_block

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


# VGG, MobileNet and ResNeXt

VGG = ["vgg_teacher", "vgg_student", "vgg_stride_student"]


def stage_channels(name: str) -> list[list[int]]:
    """Output channels of every convolution, stage by stage."""
    network = build_network(name, 10)
    return [
        [m.out_channels for m in network.get_submodule(path).modules() if isinstance(m, nn.Conv2d)]
        for path in network.tap_paths
    ]


def test_convolutions_of_each_stage():
    assert stage_channels("vgg_teacher") == [[64] * 2, [128] * 2, [256] * 3, [512] * 3]
    assert stage_channels("vgg_student") == [[64], [128], [256], [512]]
    assert stage_channels("vgg_stride_student") == [[64], [128], [256], [512]]


def test_stride_student_has_the_pooled_student_weights_but_no_pooling():
    pooled, strided = (build_network(name, 10) for name in ("vgg_student", "vgg_stride_student"))
    assert not any(isinstance(module, nn.MaxPool2d) for module in strided.modules())
    strided.load_state_dict(pooled.state_dict())  # same paths, same shapes


@pytest.mark.parametrize("name", VGG)
def test_no_batch_norm(name):
    assert not any(isinstance(m, nn.BatchNorm2d) for m in build_network(name, 10).modules())


@pytest.mark.parametrize("name", VGG)
def test_dropout_only_in_training(name):
    network = build_network(name, 10, width=0.25)
    images = torch.randn(4, 3, 32, 32)
    assert not torch.allclose(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(("name", "hidden_layers"), [("vgg_teacher", 2), ("vgg_student", 1)])
def test_dropout_follows_every_hidden_layer(name, hidden_layers):
    head = list(build_network(name, 10).head)[2:]
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * hidden_layers + [nn.Linear]
    assert all(layer.p == 0.5 for layer in head if isinstance(layer, nn.Dropout))


@pytest.mark.parametrize("name", VGG)
def test_head_pooling_changes_nothing_for_the_size_of_the_seed(name):
    network = build_network(name, 10, width=0.25).eval()
    images = torch.randn(2, 3, 32, 32)
    logits = network(images)
    network.head[0] = nn.Identity()
    assert torch.equal(network(images), logits)


@pytest.mark.parametrize("name", VGG)
def test_head_averages_the_quarters_of_a_larger_map(name):
    head = build_network(name, 10, width=0.25).eval().head
    features = torch.randn(2, 128, 4, 4)
    quarters = features.view(2, 128, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(head(features), head[1:](quarters))


@pytest.mark.parametrize(
    ("name", "depths"), [("mobilenet_teacher", [1, 2, 2, 2]), ("mobilenet_student", [1, 1, 1, 1])]
)
def test_blocks_per_stage(name, depths):
    network = build_network(name, 10)
    assert [len(network.get_submodule(path)) for path in network.tap_paths] == depths


@pytest.mark.parametrize("name", ["mobilenet_teacher", "mobilenet_student"])
def test_every_convolution_is_normalised_and_has_no_bias(name):
    modules = list(build_network(name, 10, 0.25).modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    assert [c.out_channels for c in convolutions] == [n.num_features for n in norms]
    assert all(convolution.bias is None for convolution in convolutions)


def test_depthwise_convolution_keeps_channels_apart():
    block = separable_block(4, 8, stride=1).eval()
    depthwise = block[0]
    images = torch.zeros(1, 4, 5, 5)
    images[:, 2] = torch.randn(5, 5)
    assert depthwise(images)[:, [0, 1, 3]].eq(0).all()
    assert depthwise(images)[:, 2].abs().sum() > 0


def branch_by_branch(block: BranchedBlock, images: Tensor, branches: int) -> Tensor:
    """Evaluate a block as the paper draws it: separate branches, concatenation, 1x1, shortcut."""
    enter, enter_norm, _, spatial, spatial_norm, _ = block.branches
    outputs = []
    for rows in torch.arange(enter.out_channels).chunk(branches):
        output = F.conv2d(images, enter.weight[rows])
        output = (output - enter_norm.running_mean[rows, None, None]) / (
            enter_norm.running_var[rows, None, None] + enter_norm.eps
        ).sqrt()
        output = F.conv2d(output.relu(), spatial.weight[rows], stride=block.stride, padding=1)
        output = (output - spatial_norm.running_mean[rows, None, None]) / (
            spatial_norm.running_var[rows, None, None] + spatial_norm.eps
        ).sqrt()
        outputs.append(output.relu())
    joined = block.join(torch.cat(outputs, dim=1))
    shortcut = torch.zeros_like(joined)
    step = block.stride
    mean = sum(images[:, :, i::step, j::step] for i in range(step) for j in range(step)) / step**2
    shortcut[:, : images.shape[1]] = mean
    return (joined + shortcut).relu()


@pytest.mark.parametrize("branches", [1, 2, 4])
@pytest.mark.parametrize(("channels_out", "stride"), [(6, 1), (12, 2)])
def test_grouped_convolutions_equal_separate_branches(branches, channels_out, stride):
    torch.manual_seed(0)
    block = BranchedBlock(6, channels_out, branches, branch_channels=5, stride=stride).double()
    images = torch.randn(3, 6, 8, 8, dtype=torch.float64)
    block(images)  # moves the running statistics away from 0 and 1
    block.eval()
    torch.testing.assert_close(block(images), branch_by_branch(block, images, branches))


def test_branch_counts():
    teacher, student = (build_network(name, 10) for name in ("resnext_teacher", "resnext_student"))
    for path in ("stage1", "stage2", "stage3"):
        assert teacher.get_submodule(path).branches[3].groups == 4
        assert student.get_submodule(path).branches[3].groups == 2


def test_first_tap_is_the_stem():
    assert build_network("resnext_student", 10, 0.25).tap_paths == (
        "stem",
        "stage1",
        "stage2",
        "stage3",
    )


def test_eight_branches_as_drawn_count_as_stated():
    profile = profile_network(resnext(8, num_classes=100))
    assert f"{profile.flops / 1e6:.1f}" == "1081.5"
    assert f"{profile.parameters / 1e6:.2f}" == "1.28"
