"""Which modules are stages; networks of other packages are in test_pairing_zoo.py."""

import pytest
import torch
from torch import Tensor, nn

from svdistill.taps.stages import (
    FoundStages,
    Stage,
    dry_run,
    find_stages,
    is_channels_last,
    map_size,
)


def stages(network: nn.Module, side: int = 32, width: int | None = None) -> FoundStages:
    images = torch.rand(2, 3, side, width or side)
    return find_stages(dry_run("teacher", network, images), (side, width or side))


def paths(network: nn.Module, side: int = 32) -> list[str]:
    return [found.stage.path for found in stages(network, side).stages]


def conv(channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, stride, padding=1)


class Block(nn.Module):
    """Two convolutions and a shortcut; the first may halve the size."""

    def __init__(self, channels: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.front, self.back = conv(channels, channels), conv(channels, channels, stride)
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        return maps[:, :, :: self.stride, :: self.stride] + self.back(self.front(maps).relu())


def test_a_shape_tells_channels_and_positions() -> None:
    assert (Stage("a", (64, 7, 5)).channels, Stage("a", (64, 7, 5)).positions) == (64, 35)
    assert (Stage("a", (197, 384)).channels, Stage("a", (197, 384)).positions) == (384, 197)
    assert (Stage("a", (10,)).channels, Stage("a", (10,)).positions) == (10, 1)


def test_of_each_size_the_last_layer() -> None:
    model = nn.Sequential(
        *(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv(4, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    )
    found = stages(model)
    assert [(s.stage.path, s.map_size, s.depth) for s in found.stages] == [
        ("1", (32, 32), 0.5),
        ("5", (16, 16), 1.0),
        ("7", (8, 8), 1.0),
    ]
    assert not found.isotropic


def test_a_block_comes_before_a_later_layer() -> None:
    model = nn.Sequential(Block(), Block(stride=2), conv(3, 8), nn.BatchNorm2d(8))
    assert paths(model) == ["0", "1"]


def test_the_inside_of_a_block_that_halves_the_size_is_no_stage() -> None:
    model = nn.Sequential(conv(3, 3), Block(), Block(stride=2), Block(stride=2))
    assert paths(model) == ["1", "2", "3"]


def test_a_module_of_many_stages_is_opened() -> None:
    body = nn.Sequential(Block(), Block(stride=2), Block(stride=2), Block())
    assert paths(nn.Sequential(body, nn.Flatten())) == ["0.0", "0.1", "0.3"]


def test_a_stage_with_its_pooling_at_the_end_is_opened_for_its_last_block() -> None:
    def stage() -> nn.Sequential:
        return nn.Sequential(Block(), Block(), nn.MaxPool2d(2))

    assert paths(nn.Sequential(conv(3, 3, 2), stage(), stage(), Block())) == ["1.1", "2.1", "3"]


def test_a_stem_of_many_sizes_is_left_out() -> None:
    stem = [conv(3, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2)]
    body = [*(Block() for _ in range(3)), Block(stride=2), Block(), Block()]
    assert paths(nn.Sequential(*stem, *body)) == ["5", "8"]


def test_what_is_overwritten_gives_way_to_the_block_before() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Sequential(Block(stride=s), Block()) for s in (1, 2))

        def forward(self, images: Tensor) -> Tensor:
            return self.second(self.first(images)).relu_().mean((2, 3))

    assert paths(Overwrites()) == ["first", "second.0"]


def test_what_runs_twice_gives_way_to_the_module_around_it() -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, maps: Tensor) -> Tensor:
            return self.block(self.block(maps))

    assert paths(nn.Sequential(Repeats(), Block(stride=2))) == ["0", "1"]


def test_maps_that_grow_again_are_beside_the_trunk() -> None:
    model = nn.Sequential(Block(stride=2), Block(stride=2), nn.Upsample(scale_factor=4), Block())
    assert paths(model) == ["0", "1"]


class Encoder(nn.Module):
    """Equal blocks on tokens behind a class token, in a list that a module holds."""

    def __init__(self, depth: int, *, tuples: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.layers = nn.ModuleList(TokenBlock(tuples) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).mT
        tokens = torch.cat([tokens[:, :1], tokens], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        return self.head(self.norm(tokens)[:, 0])


class TokenBlock(nn.Module):
    def __init__(self, tuples: bool) -> None:
        super().__init__()
        self.norm, self.front, self.back = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.tuples = tuples

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor]:
        tokens = tokens + self.back(self.front(self.norm(tokens)).relu())
        return (tokens,) if self.tuples else tokens


def test_an_isotropic_network_has_its_blocks_for_stages() -> None:
    found = stages(Encoder(5))
    assert found.isotropic
    assert [s.stage for s in found.stages] == [Stage(f"layers.{i}", (65, 8)) for i in range(5)]
    assert {s.map_size for s in found.stages} == {(8, 8)}
    assert [round(s.depth * 11) for s in found.stages] == [3, 5, 7, 9, 11]


def test_blocks_within_one_module_are_found_too() -> None:
    model = nn.Sequential(conv(3, 3, 2), nn.Sequential(*(Block() for _ in range(6))))
    assert paths(model) == [f"1.{i}" for i in range(6)]


def test_of_blocks_that_put_out_tuples_the_norms_are_tapped() -> None:
    found = stages(Encoder(4, tuples=True))
    assert [s.stage.path for s in found.stages] == [f"layers.{i}.norm" for i in range(4)] + ["norm"]


def test_maps_with_channels_last() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.back = nn.Linear(3, 12), nn.Linear(12, 20)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.front(images.permute(0, 2, 3, 1)[:, ::2, ::2])
            return self.back(maps[:, ::2, ::2]).mean((1, 2))

    expected = [Stage("front:nhwc", (12, 16, 16)), Stage("back:nhwc", (20, 8, 8))]
    assert [found.stage for found in stages(ChannelsLast()).stages] == expected
    found = stages(ChannelsLast(), 32, 48).stages
    assert [(f.stage.shape, f.map_size) for f in found] == [
        ((12, 16, 24), (16, 24)),
        ((20, 8, 12), (8, 12)),
    ]


def test_a_network_of_vectors_has_no_stages() -> None:
    assert paths(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Linear(8, 4))) == []


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((64, 56, 56), (224, 224), (56, 56)),
        ((56, 56, 96), (224, 224), (56, 56)),
        ((7, 7, 7), (224, 224), (7, 7)),
        ((64, 14, 10), (224, 160), (14, 10)),
        ((14, 10, 384), (224, 160), (14, 10)),
        ((512, 7, 6), (224, 176), (7, 6)),  # rounded up from 5.5
        ((196, 384), (224, 224), (14, 14)),
        ((197, 384), (224, 224), (14, 14)),
        ((201, 384), (224, 224), (14, 14)),  # four registers
        ((141, 384), (224, 160), (14, 10)),
        ((140, 384), (224, 160), (14, 10)),
        ((512, 384), (224, 224), (0, 0)),  # no grid of the image: latents
        ((6, 197, 64), (224, 224), (0, 0)),  # attention's heads
        ((2048,), (224, 224), (0, 0)),
    ],
)
def test_grid(shape: tuple[int, ...], image: tuple[int, int], expected: tuple[int, int]) -> None:
    assert map_size(shape, image) == expected


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((96, 56, 56), (224, 224), False),
        ((56, 56, 96), (224, 224), True),
        ((56, 56, 56), (224, 224), False),
        ((56, 40, 96), (224, 160), True),
        ((96, 56, 40), (224, 160), False),
        ((56, 40, 40), (224, 160), True),
        ((3136, 96), (224, 224), False),
    ],
)
def test_channels_last(shape: tuple[int, ...], image: tuple[int, int], expected: bool) -> None:
    assert is_channels_last(shape, image) is expected
