"""The pairs that are found between networks of timm, torchvision, Hugging Face and the paper."""

import pytest
import torch

from random_networks import random_network
from svdistill.taps import FeatureTaps, pair_taps

SWIN_OF_HF = [
    *(f"swin.encoder.layers.{i}.blocks.{last}.layernorm_after" for i, last in ((0, 1), (1, 1))),
    *("swin.encoder.layers.2.blocks.5.layernorm_after", "swin.layernorm"),
]
RESNET = "layer1 layer2 layer3 layer4"
QUARTERS = "blocks.2 blocks.5 blocks.8 blocks.11"
PAIRS = [
    # teacher, its taps, student, its taps, and the sizes by which they were paired
    ("timm:resnet50", RESNET, "timm:resnet18", RESNET, "56 28 14 7"),
    (
        *("timm:resnet34", RESNET),
        *("timm:mobilenetv3_small_100", "blocks.0 blocks.1 blocks.3 blocks.4", "56 28 14 7"),
    ),
    (
        *("timm:convnext_tiny", "stages.0 stages.1 stages.2 stages.3"),
        *("timm:efficientnet_b0", "blocks.1 blocks.2 blocks.4 blocks.6", "56 28 14 7"),
    ),
    ("timm:vit_small_patch16_224", QUARTERS, "timm:vit_tiny_patch16_224", QUARTERS, "- - - -"),
    ("timm:vit_small_patch16_224", QUARTERS, "timm:resnet18", RESNET, "- - 14 -"),
    (
        *("timm:deit_small_distilled_patch16_224", "blocks.1 blocks.3 blocks.9 blocks.11"),
        *("timm:convnext_atto", "stages.0 stages.1 stages.2 stages.3", "- - 14 -"),
    ),
    (
        *("timm:swin_tiny_patch4_window7_224", [f"layers.{i}:nhwc" for i in range(4)]),
        *("timm:resnet18", RESNET, "56 28 14 7"),
    ),
    (
        *("timm:densenet121", [f"features.denseblock{i}" for i in (1, 2, 3, 4)]),
        *("timm:mobilenetv2_100", "blocks.1 blocks.2 blocks.4 blocks.6", "56 28 14 7"),
    ),
    ("timm:regnety_004", "s1 s2 s3 s4", "timm:resnet18", RESNET, "56 28 14 7"),
    (
        *("torchvision:vgg11_bn", "features.13 features.20 features.27 features.28"),
        *("torchvision:mobilenet_v2", "features.3 features.6 features.13 features.17"),
        "56 28 14 7",
    ),
    (
        *("torchvision:swin_t", [f"features.{i}:nhwc" for i in (1, 3, 5, 7)]),
        *("torchvision:resnet18", RESNET, "56 28 14 7"),
    ),
    (
        *("torchvision:vit_b_16", [f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)]),
        *("timm:mixer_s16_224", "blocks.1 blocks.3 blocks.5 blocks.7", "- - - -"),
    ),
    ("hf:ViT", [f"vit.layers.{i}" for i in (2, 5, 8, 11)], "timm:resnet18", RESNET, "- - 14 -"),
    ("hf:Swin", SWIN_OF_HF, "timm:resnet18", RESNET, "56 28 14 7"),
    (
        *("hf:ConvNext", [f"convnext.encoder.stages.{i}" for i in range(4)]),
        *("timm:resnet18", RESNET, "56 28 14 7"),
    ),
    # Sizes meet where depths do not: these two read an image at another resolution each.
    ("timm:wide_resnet50_2", "layer2 layer3 layer4", "resnet20", "layer1 layer2 layer3", "- - -"),
    (
        *("paper:vgg_teacher", "stage1 stage2 stage3 stage4"),
        *("paper:mobilenet_student", "stage1 stage2 stage3 stage4", "- - - -"),
    ),
    (
        *("paper:resnext_teacher", "stage1 stage2 stage3"),
        *("paper:resnext_student", "stage1 stage2 stage3", "224 112 56"),
    ),
]


@pytest.mark.parametrize(
    ("teacher", "teacher_taps", "student", "student_taps", "sizes"),
    PAIRS,
    ids=[f"{pair[0]}-{pair[2]}" for pair in PAIRS],
)
def test_an_expert_would_pair_them_so(
    teacher: str,
    teacher_taps: str | list[str],
    student: str,
    student_taps: str | list[str],
    sizes: str,
) -> None:
    networks = random_network(teacher), random_network(student)
    paired = pair_taps(*networks, torch.empty(2, 3, 224, 224, device="meta"))
    for found, expected in zip(paired.pairs, (teacher_taps, student_taps), strict=True):
        assert list(found) == (expected.split() if isinstance(expected, str) else expected)
    for row, size in zip(paired.rows, sizes.split(), strict=True):
        assert row.why.startswith("at " if size == "-" else f"both {size}x{size}")
    assert all(len(line) <= 100 for line in str(paired).splitlines())


SMALL = [
    (
        *("timm:swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 24, "window_size": 7}),
        *("timm:resnet10t", {}, 56),
    ),
    (
        *("timm:vit_tiny_patch16_224", {"img_size": 64, "depth": 4}),
        *("timm:mobilenetv3_small_050", {}, 64),
    ),
    (
        *("hf:ViT", {"hidden_size": 24, "image_size": 64, "num_attention_heads": 2}),
        *("timm:convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, 64),
    ),
    ("resnet20", {}, "torchvision:shufflenet_v2_x0_5", {}, 64),
    ("torchvision:squeezenet1_1", {}, "torchvision:mobilenet_v2", {"width_mult": 0.25}, 64),
]


@pytest.mark.parametrize(
    ("teacher", "teacher_options", "student", "student_options", "side"),
    SMALL,
    ids=[f"{pair[0]}-{pair[2]}" for pair in SMALL],
)
def test_what_is_found_can_be_tapped_and_trained(
    teacher: str,
    teacher_options: dict[str, object],
    student: str,
    student_options: dict[str, object],
    side: int,
) -> None:
    torch.manual_seed(0)
    learner = random_network(student, "cpu", **student_options)
    images = torch.rand(2, 3, side, side)
    paired = pair_taps(random_network(teacher, "cpu", **teacher_options), learner, images)
    assert len(paired.rows) >= 2
    features = FeatureTaps(learner, paired.pairs.student).run(images).features
    assert [f.shape[1:] for f in features] == [row.student.shape for row in paired.rows]
    for feature in features:
        learner.zero_grad()
        feature.square().mean().backward(retain_graph=True)
        first_weight = next(learner.parameters())
        assert first_weight.grad is not None
        assert first_weight.grad.any()
