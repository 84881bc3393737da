import pytest

from svdistill.taps.stages import is_channels_last, map_size


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
