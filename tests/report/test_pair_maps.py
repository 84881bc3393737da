from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from made_runs import random_maps
from svdistill.losses import SVDLoss
from svdistill.report.feature_maps import TappedMaps, pair_maps


def first_vectors(maps: TappedMaps, name: str, image: int, k: int) -> list[Tensor]:
    """Of one image at each tap: the first weighted vector, a student's as aligned."""
    vectors = []
    for teacher, matrices in zip(maps.teacher, getattr(maps, name), strict=True):
        _, sigma, V_T = torch.linalg.svd(teacher[image].double())
        first = V_T[0] * V_T[0].sum().sign()  # maps without negative entries
        if name != "teacher":
            offered = torch.linalg.svd(matrices[image].double())[2][: k + 1]
            cosines = offered @ first
            best = cosines.abs().argmax()
            first = offered[best] * cosines[best].sign()
        vectors.append(first * sigma[0] / sigma[:k].norm())
    return vectors


@pytest.mark.parametrize("num_vectors", [1, 3])
@pytest.mark.parametrize("name", ["teacher", "before", "after"])
def test_maps_are_the_explicit_formula(name: str, num_vectors: int) -> None:
    maps = random_maps()
    beta = 0.5
    images = [first_vectors(maps, name, image, num_vectors) for image in range(5)]
    pairs = pair_maps(maps, num_vectors, beta)
    for place, pair in enumerate(pairs):
        singles = [
            torch.exp(-((taps[place][:, None] - taps[place + 1][None, :]) ** 2) / beta)
            for taps in images
        ]
        torch.testing.assert_close(getattr(pair, name), torch.stack(singles).mean(0))
    assert [(pair.front, pair.back) for pair in pairs] == list(pairwise(maps.taps))


def test_squared_differences_of_one_image_are_the_loss() -> None:
    maps = random_maps(images=1)
    loss = SVDLoss(num_vectors=1, beta=0.5)
    teacher, after = ([tap.double() for tap in taps] for taps in (maps.teacher, maps.after))
    expected = loss(after, torch.zeros(1, 2), loss.extract(teacher, None))
    pairs = pair_maps(maps, 1, 0.5)
    total = sum((pair.after - pair.teacher).square().sum() for pair in pairs)
    torch.testing.assert_close(total, expected)


def test_channels_are_ordered_by_the_teachers_mean_vector() -> None:
    maps = random_maps()
    mean = torch.stack([first_vectors(maps, "teacher", image, 1)[1] for image in range(5)]).mean(0)
    first, second = pair_maps(maps, 1, 8.0)
    assert torch.equal(first.back_order, mean.argsort(descending=True))
    assert torch.equal(second.front_order, first.back_order)


def test_networks_of_different_width_have_spectra_but_no_maps() -> None:
    maps = random_maps()
    narrow = replace(maps, teacher=tuple(tap[:, :, :3] for tap in maps.teacher))
    assert pair_maps(narrow, 1, 8.0) == ()
