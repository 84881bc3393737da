import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from svdistill.common.errors import ArgumentError
from svdistill.data import Augmentation
from svdistill.data.augmentation import AUGMENTATIONS

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
EVERY = pytest.mark.parametrize("name", AUGMENTATIONS)
WHOLE_PIXELS = pytest.mark.parametrize("name", ["crop_flip", "paper"])
RANDOM = pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])


def noise(count, size=16, seed=0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (count, 3, size, size), dtype=np.uint8))


def augmentation(name, size=16):
    return Augmentation(name, size, MEAN, STD)


def views_of(module, images, seed, view=0):
    """The views of images numbered from 0."""
    return module(images, seed=seed, indices=torch.arange(len(images)), view=view)


def normalised(images):
    """Zero mean, unit deviation, in numpy."""
    mean, std = (np.float32(numbers)[:, None, None] for numbers in (MEAN, STD))
    return (images.numpy().astype(np.float32) / np.float32(255) - mean) / std


def every_view(image):
    """All flips and shifts of an image [3, H, W] within zeros, [2 (2p + 1)^2, 3, H, W]."""
    size = image.shape[-1]
    pad = size // 8
    views = []
    for flipped in (image, image[:, :, ::-1]):
        padded = np.pad(flipped, ((0, 0), (pad, pad), (pad, pad)))
        for top in range(2 * pad + 1):
            for left in range(2 * pad + 1):
                views.append(padded[:, top : top + size, left : left + size])
    return np.stack(views)


def which_view(image, view):
    """The place of a view among all views of an image."""
    (places,) = np.nonzero((every_view(image) == view).all(axis=(1, 2, 3)))
    assert len(places) == 1
    return int(places[0])


# Normalising


@given(st.integers(0, 5), st.sampled_from([8, 13, 32]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_normalise_is_exact(count, size, seed):
    images = noise(count, size, seed)
    before = images.clone()
    result = augmentation("paper", size).normalise(images)
    assert result.dtype == torch.float32
    assert np.array_equal(result, normalised(images))
    assert torch.equal(images, before)


def test_none_only_normalises():
    images = noise(5)
    assert np.array_equal(views_of(augmentation("none"), images, seed=3), normalised(images))


@EVERY
@pytest.mark.parametrize(
    "images",
    [
        noise(4).to(memory_format=torch.channels_last),
        noise(8)[::2],
        noise(4)[:, :1].expand(-1, 3, -1, -1),
        noise(4).flip(3),
    ],
    ids=["channels_last", "strided", "expanded", "flipped"],
)
def test_the_layout_in_memory_does_not_matter(name, images):
    module = augmentation(name)
    before = images.clone()
    assert torch.equal(views_of(module, images, 1), views_of(module, images.contiguous(), 1))
    assert torch.equal(images, before)


# Flip and crop


@pytest.mark.parametrize("size", [8, 15, 16, 32])
def test_crop_flip_gives_a_flipped_shifted_image_within_zeros(size):
    images = noise(40, size)
    views = views_of(augmentation("crop_flip", size), images, seed=2).numpy()
    for image, view in zip(normalised(images), views, strict=True):
        which_view(image, view)


def test_crop_flip_draws_every_view_as_often_as_any_other():
    image = noise(1, 8)
    module = augmentation("crop_flip", 8)
    counts = np.zeros(2 * 3 * 3)
    for seed in range(9):
        for view in views_of(module, image.expand(200, -1, -1, -1), seed).numpy():
            counts[which_view(normalised(image)[0], view)] += 1
    # 1800 draws of 18 views: mean 100, standard deviation 9.7.
    assert abs(counts - 100).max() < 45


def test_every_image_of_a_batch_gets_a_view_of_its_own():
    image = noise(1, 32)
    views = views_of(augmentation("crop_flip", 32), image.expand(128, -1, -1, -1), 5).numpy()
    chosen = {which_view(normalised(image)[0], view) for view in views}
    # 128 draws of 162 views hit 88 on average.
    assert len(chosen) > 60


# Rotation


def map_image(size):
    """An image whose pixels tell their own column and row, and that they are of the image."""
    row, column = np.mgrid[1 : size + 1, 1 : size + 1]
    return torch.from_numpy(np.stack([column, row, np.full_like(row, 255)]).astype(np.uint8))


def turn(degrees, flip):
    """From a place in a view to its place in the image, both (x, y) from the centre."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.diag([-1 if flip else 1, 1]) @ np.array([[cos, -sin], [sin, cos]])


def read_map(view):
    """Angle, flip and shift of a view of the map image, having checked it pixel by pixel."""
    size = view.shape[-1]
    inside = view[2] == 1
    assert (view[:, ~inside] == 0).all()
    row, column = np.mgrid[:size, :size] - (size - 1) / 2
    places = np.stack([column, row], axis=-1)  # [H, W, 2]
    sources = np.rint(view[:2] * 255).transpose(1, 2, 0)[inside] - (size + 1) / 2
    flip = np.corrcoef(places[inside][:, 0], sources[:, 0])[0, 1] < 0

    def best(candidates):
        found = []
        for degrees in candidates:
            matrix = turn(degrees, flip)
            away = places[inside] @ matrix.T - sources
            shift = np.rint(np.linalg.solve(matrix, (away.max(axis=0) + away.min(axis=0)) / 2))
            found.append((abs(away - matrix @ shift).max(), degrees, *shift))
        return min(found)

    guess = best(np.arange(-16, 16, 0.5))[1]
    error, degrees, *shift = best(np.arange(guess - 0.5, guess + 0.5, 0.03))
    # The nearest pixel is at most half a pixel away, and zeros lie only where there is none.
    assert error < 0.51
    beyond = abs((places - shift) @ turn(degrees, flip).T).max(axis=-1) > size / 2 - 0.01
    padded = abs(places - shift).max(axis=-1) > size / 2
    assert (beyond | padded)[~inside].all()
    return degrees, flip, shift


def test_seed_flips_rotates_about_the_centre_and_shifts_whole_pixels():
    size, count = 32, 120
    module = Augmentation("paper", size, mean=(0, 0, 0), std=(1, 1, 1))
    views = views_of(module, map_image(size).expand(count, -1, -1, -1), 11).numpy()
    angles, flips, shifts = map(np.array, zip(*map(read_map, views), strict=True))
    assert abs(angles).max() < 15.05
    assert angles.min() < -13
    assert angles.max() > 13
    assert angles.std() == pytest.approx(30 / 12**0.5, rel=0.15)  # of a uniform distribution
    assert 0.35 < flips.mean() < 0.65
    assert set(shifts.flatten()) == set(range(-4, 5))
    draws = np.column_stack([angles, flips, shifts])
    assert abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.36  # independent: four deviations


def test_seed_invents_no_colour():
    image = noise(1, 16)
    colours = {tuple(colour) for colour in normalised(image)[0].reshape(3, -1).T}
    views = views_of(augmentation("paper"), image.expand(50, -1, -1, -1), 0).numpy()
    drawn = {tuple(colour) for view in views for colour in view.reshape(3, -1).T}
    assert drawn <= colours | {(0.0, 0.0, 0.0)}
    assert len(drawn) > 200  # of 256: the corners alone are always lost


# All at once, against one after the other


def by_steps(images, draws):
    """Flip, rotation by `grid_sample`, then padding and cropping, image by image."""
    size = images.shape[-1]
    pad = size // 8
    views = []
    for image, flip, radians, down, right in zip(images, *draws, strict=True):
        image = image.flip(-1) if flip else image
        cos, sin = torch.cos(radians), torch.sin(radians)
        turn = torch.stack([cos, sin, 0 * cos, -sin, cos, 0 * cos]).view(1, 2, 3)
        grid = F.affine_grid(turn, [1, 3, size, size], align_corners=False)
        turned = F.grid_sample(image[None].double(), grid, mode="nearest", align_corners=False)[0]
        padded = F.pad(turned, (pad,) * 4)
        views.append(padded[:, pad + down : pad + down + size, pad + right : pad + right + size])
    return torch.stack(views)


@WHOLE_PIXELS
@pytest.mark.parametrize("size", [8, 15, 16, 32, 33])
def test_one_index_map_does_what_the_steps_do(name, size):
    module = augmentation(name, size)
    images = noise(60, size)
    indices = torch.arange(60) + 1000
    views = module(images, seed=3, indices=indices, view=2)
    draws = module.draw(3, 2, indices)
    expected = by_steps(torch.from_numpy(normalised(images)), draws)
    same = (views == expected).all(dim=1)
    # Where a place lies within rounding of two pixels, either is the nearest.
    assert same.float().mean() > 0.9999


def test_draws_are_as_wide_as_they_should_be():
    draws = augmentation("paper", 32).draw(0, 0, torch.arange(20_000))
    degrees = torch.rad2deg(draws.radians)
    assert 14.99 < degrees.max() <= 15
    assert -15 <= degrees.min() < -14.99
    assert abs(degrees.mean()) < 0.25  # four deviations
    assert abs(draws.flip.double().mean() - 0.5) < 0.015
    for shift in (draws.down, draws.right):
        counts = torch.bincount(shift + 4)
        assert len(counts) == 9
        assert (counts - 20_000 / 9).abs().max() < 200
    flat = augmentation("crop_flip", 32).draw(0, 0, torch.arange(100))
    assert not flat.radians.any()


# Each view by itself


@RANDOM
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=6), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_view_does_not_depend_on_its_batch(name, numbers, view):
    module, image = augmentation(name), noise(1)
    indices = torch.tensor(numbers)
    together = module(image.expand(len(numbers), -1, -1, -1), seed=4, indices=indices, view=view)
    for place in range(len(numbers)):
        alone = module(image, seed=4, indices=indices[place : place + 1], view=view)
        assert torch.equal(alone[0], together[place])


@RANDOM
def test_views_of_an_image_differ(name):
    module, image = augmentation(name, 32), noise(1, 32)
    views = {views_of(module, image, 0, view).numpy().tobytes() for view in range(100)}
    assert len(views) > 60  # of 162 flips and shifts, 100 draws hit 75 on average


# Reproducible from one number


@RANDOM
@given(st.integers(0, 2**63 - 1), st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_the_seed_alone_decides(name, seed, count):
    images = noise(count)
    torch.manual_seed(1)
    first = views_of(augmentation(name), images, seed=seed)
    used = augmentation(name).eval()
    views_of(used, noise(3), 5)
    torch.manual_seed(2)
    with torch.inference_mode():
        assert torch.equal(views_of(used, images, seed), first)


@RANDOM
def test_other_seeds_give_other_views(name):
    images = noise(8)
    module = augmentation(name)
    views = {views_of(module, images, seed).numpy().tobytes() for seed in range(20)}
    assert len(views) == 20


@EVERY
def test_global_random_states_stay_untouched(name):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    views_of(augmentation(name), noise(4), seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


# What goes in and out


@EVERY
@pytest.mark.parametrize("count", [0, 1, 5])
def test_views_are_float32_of_the_same_shape_without_gradient(name, count):
    views = views_of(augmentation(name), noise(count), seed=0)
    assert views.shape == (count, 3, 16, 16)
    assert views.dtype == torch.float32
    assert not views.requires_grad


@EVERY
def test_extreme_images_stay_finite(name):
    module = Augmentation(name, 8, mean=(0, 1, 0.5), std=(1 / 255, 1 / 255, 1))
    for value in (0, 255):
        images = torch.full((4, 3, 8, 8), value, dtype=torch.uint8)
        assert views_of(module, images, 0).isfinite().all()


def test_has_nothing_to_learn_or_to_save():
    module = augmentation("paper")
    assert list(module.parameters()) == []
    assert module.state_dict() == {}
    assert repr(module) == "Augmentation('paper', image_size=16)"


@EVERY
@pytest.mark.parametrize(
    ("images", "got"),
    [
        (torch.zeros(2, 3, 16, 16), r"torch.float32 of shape \[2, 3, 16, 16\]"),
        (torch.zeros(2, 3, 8, 8).byte(), r"torch.uint8 of shape \[2, 3, 8, 8\]"),
        (torch.zeros(2, 3, 16, 12).byte(), r"\[2, 3, 16, 12\]"),
        (torch.zeros(2, 1, 16, 16).byte(), r"\[2, 1, 16, 16\]"),
        (torch.zeros(2, 16, 16, 3).byte(), r"\[2, 16, 16, 3\]"),
        (torch.zeros(3, 16, 16).byte(), r"\[3, 16, 16\]"),
        (torch.zeros(0).byte(), r"\[0\]"),
    ],
)
def test_refuses_what_are_no_raw_images(name, images, got):
    message = rf"images: expected uint8 of shape \[B, 3, 16, 16\], got .*{got}; .*image_size"
    module = augmentation(name)
    with pytest.raises(ArgumentError, match=message):
        views_of(module, images, 0)
    with pytest.raises(ArgumentError, match=message):
        module.normalise(images)


@EVERY
@pytest.mark.parametrize("number", [-1, 1.0, True, None])
def test_refuses_what_is_no_seed_and_no_view(name, number):
    with pytest.raises(ArgumentError, match="seed: expected an integer of at least 0"):
        views_of(augmentation(name), noise(1), seed=number)
    with pytest.raises(ArgumentError, match="view: expected an integer of at least 0"):
        views_of(augmentation(name), noise(1), seed=0, view=number)


@EVERY
@pytest.mark.parametrize("indices", [torch.arange(3), torch.zeros(2), torch.zeros(2, 1).long()])
def test_refuses_what_does_not_number_the_images(name, indices):
    with pytest.raises(ArgumentError, match=r"indices: expected int64 of shape \[2\]"):
        augmentation(name)(noise(2), seed=0, indices=indices, view=0)


@RANDOM
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_device_gives_the_same_views(name):
    module, images = augmentation(name, 32), noise(4096, 32)
    expected = views_of(module, images, 6)
    assert torch.allclose(views_of(module.cuda(), images.cuda(), 6).cpu(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "crop-flip"}, "augmentation: .*did you mean 'crop_flip'"),
        ({"name": None}, "augmentation: .*got None"),
        ({"image_size": 7}, "image_size: .*at least 8, got 7"),
        ({"image_size": 32.0}, "image_size: .*an integer"),
        ({"mean": (0.5, 0.5)}, "mean: expected 3 numbers"),
        ({"mean": (0.5, 0.5, 0.5, 0.5)}, "mean: expected 3 numbers"),
        ({"mean": (129.38, 124.11, 112.48)}, "mean: .*each 0 to 1, .*divide .* by 255"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean: expected 3 numbers"),
        ({"mean": (0.5, -0.1, 0.5)}, "mean: expected 3 numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "std: .*each 1e-06 to 1"),
        ({"std": (0.5, float("inf"), 0.5)}, "std: expected 3 numbers"),
    ],
)
def test_refuses_settings_that_cannot_be(arguments, message):
    usual = {"name": "none", "image_size": 16, "mean": MEAN, "std": STD}
    with pytest.raises(ArgumentError, match=message):
        Augmentation(**{**usual, **arguments})
