import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps

from svdistill.data import Augmentation
from svdistill.data.augmentation import uniform
from svdistill.data.photo_views import (
    DRAWS,
    brightness,
    contrast,
    equalized,
    jittered_views,
    posterized,
    saturation,
    sharpness,
    solarized,
    stretched,
    trivial_views,
)

# Draws of a view that shows the whole image unchanged.
WHOLE = torch.tensor([0.9, 1 - 1e-9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)

STRENGTHS = (0.0, 0.25, 0.5, 1.0)


def photos(count=4, size=24):
    """Smooth images of several ranges, and noise."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 5, 5, generator=generator)
    images = (
        F.interpolate(small, size=size, mode="bilinear")
        * torch.linspace(0.3, 1, count)[:, None, None, None]
    )
    images[0] = torch.rand(3, size, size, generator=generator)
    return (images * 255).round()


def by_pillow(images, change):
    """The images as Pillow's change of each makes them."""
    changed = []
    for number, image in enumerate(images.byte().permute(0, 2, 3, 1).numpy()):
        changed.append(np.asarray(change(Image.fromarray(image), number)))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(
    ("change", "enhancer"),
    [
        (brightness, ImageEnhance.Brightness),
        (contrast, ImageEnhance.Contrast),
        (saturation, ImageEnhance.Color),
        (sharpness, ImageEnhance.Sharpness),
    ],
)
def test_factors_do_what_pillows_do(change, enhancer):
    images, factors = photos(), torch.tensor([0.01, 0.6, 1.4, 1.99], dtype=torch.float64)
    before = images.clone()
    found = change(images, factors)
    expected = by_pillow(images, lambda image, n: enhancer(image).enhance(float(factors[n])))
    assert (found - expected).abs().max() <= 1.01  # Pillow rounds down
    assert torch.equal(images, before)
    assert (change(images, torch.ones(4)) - images).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("change", "pillow", "away"),
    [
        (posterized, lambda image, n: ImageOps.posterize(image, 8 - round(6 * STRENGTHS[n])), 0),
        (solarized, lambda image, n: ImageOps.solarize(image, int(256 * (1 - STRENGTHS[n]))), 0),
        (stretched, lambda image, _: ImageOps.autocontrast(image), 1.01),
        (equalized, lambda image, _: ImageOps.equalize(image), 0),
    ],
)
def test_other_colours_are_pillows_too(change, pillow, away):
    images = photos()
    images[3, 1] = 7  # one value: nothing to stretch
    signed = torch.tensor(STRENGTHS, dtype=torch.float64) * torch.tensor([1, -1, 1, -1])
    assert (change(images, signed) - by_pillow(images, pillow)).abs().max() <= away


def test_a_crop_is_a_part_of_the_image_enlarged():
    """Against torch's resizing of the part, in exact numbers of pixels."""
    images = photos(1, size=32)
    numbers = WHOLE.clone()
    numbers[1] = 0.0  # a quarter of the area: 16x16
    for place, start in ((0.0, 0), (0.5, 8), (1.0, 16)):
        numbers[3] = place
        found, outside = jittered_views(images, numbers[None])
        part = images[:, :, 8:24, start : start + 16]
        expected = F.interpolate(part, size=32, mode="bilinear")
        inner = (..., slice(1, -1), slice(1, -1))  # a part's border knows its neighbours
        torch.testing.assert_close(found[inner], expected[inner], atol=2e-3, rtol=0)
        assert not outside.any()


def ramp(size=32):
    """Pixels that tell their column and row."""
    row, column = torch.meshgrid(*[torch.arange(size)] * 2, indexing="ij")
    return torch.stack([column, row, row * 0]).float()


@pytest.mark.parametrize("draw", [jittered_views, trivial_views])
def test_crops_are_as_wide_as_they_should_be(draw):
    """Measured at the slope of the ramps, in views whose colours do not change."""
    numbers = uniform(3, 0, torch.arange(2000), DRAWS)
    numbers[:, 5] = 0.5 if draw is jittered_views else 0.0
    numbers[:, 6:] = 0.5
    views, outside = draw(ramp().expand(len(numbers), -1, -1, -1), numbers)
    assert not outside.any()
    assert ((views >= 0) & (views <= 31)).all()
    across = (views[:, 0, 16, 24] - views[:, 0, 16, 8]) / 16
    down = (views[:, 1, 24, 16] - views[:, 1, 8, 16]) / 16
    assert float((across < 0).double().mean()) == pytest.approx(0.5, abs=0.04)
    area, ratio = across.abs() * down, across.abs() / down
    rounded = 0.03 if draw is jittered_views else 0.1  # the pixels of trivial_views are
    assert float(area.min()) == pytest.approx(0.25, abs=rounded)
    assert float(area.max()) == pytest.approx(1.0, abs=rounded)
    assert float(area.mean()) == pytest.approx(0.625, abs=0.03)
    assert float(ratio.min()) == pytest.approx(3 / 4, abs=rounded)
    assert float(ratio.max()) == pytest.approx(4 / 3, abs=2 * rounded)
    middle = views[:, :2, 15:17, 15:17].mean(dim=(0, 2, 3))
    assert (middle - 15.5).abs().max() < 0.6


def operation(number, strength, sign):
    numbers = WHOLE.clone()
    numbers[5] = (number + 0.5) / 14
    numbers[6], numbers[7] = strength, 0.25 if sign < 0 else 0.75
    return numbers[None]


@pytest.mark.parametrize(
    ("number", "matrix"),
    [
        (1, [[1, 0.99, 0], [0, 1, 0]]),
        (2, [[1, 0, 0], [0.99, 1, 0]]),
        (3, [[1, 0, 2 / 7], [0, 1, 0]]),
        (4, [[1, 0, 0], [0, 1, 2 / 7]]),
        (5, [[-math.sqrt(0.5), -math.sqrt(0.5), 0], [math.sqrt(0.5), -math.sqrt(0.5), 0]]),
    ],
)
def test_moves_are_affine_maps(number, matrix):
    images = photos(1)
    found, outside = trivial_views(images, operation(number, 1 - 1e-9, sign=1))
    grid = F.affine_grid(torch.tensor(matrix)[None], [1, 3, 24, 24], align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    assert (found - expected).abs().max() <= 0.51  # rounded
    assert torch.equal(outside[:, 0], (grid.abs() > 1).any(dim=-1))
    assert outside.any()


def test_no_strength_changes_nothing_and_opposite_signs_differ():
    images = photos(1)
    for number in range(14):
        still, _ = trivial_views(images, operation(number, 0.0, 1))
        if number not in (12, 13):  # stretched and equalized have no strength
            assert (still - images).abs().max() <= 1, number
        one, other = (trivial_views(images, operation(number, 0.9, s))[0] for s in (-1, 1))
        assert torch.equal(one, other) == (number in (0, 10, 11, 12, 13)), number


def test_every_operation_is_drawn_as_often_as_any_other():
    drawn = (uniform(0, 0, torch.arange(14_000), DRAWS)[:, 5] * 14).long()
    counts = torch.bincount(drawn, minlength=14)
    assert len(counts) == 14
    assert (counts - 1000).abs().max() < 150


@pytest.mark.parametrize("name", ["photo", "trivial"])
def test_what_is_outside_has_the_mean_colour(name):
    augmentation = Augmentation(name, 32, mean=(0.5,) * 3, std=(0.25,) * 3)
    images = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    views = augmentation(images, seed=0, indices=torch.arange(200), view=0)
    empty = (views == 0).all(dim=1).flatten(1).float().mean(dim=1)
    assert bool(empty.any()) == (name == "trivial")
    assert empty.max() < 0.6


@pytest.mark.parametrize("name", ["photo", "trivial"])
def test_large_images(name):
    augmentation = Augmentation(name, 384, mean=(0.5,) * 3, std=(0.25,) * 3)
    images = (photos(2, 384)).byte()
    views = augmentation(images, seed=1, indices=torch.tensor([5, 2**40]), view=3)
    alone = augmentation(images[1:], seed=1, indices=torch.tensor([2**40]), view=3)
    assert torch.equal(views[1:], alone)
