from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from svdistill.losses import SVDLoss
from svdistill.report.feature_maps import TappedMaps, tapped_maps
from svdistill.report.runs import Run
from svdistill.report.spectra import analyse, pair_maps, spectrum_of


def random_maps(images: int = 5, channels: tuple[int, ...] = (6, 8, 4)) -> TappedMaps:
    generator = torch.Generator().manual_seed(0)

    def network() -> tuple[Tensor, ...]:
        return tuple(torch.rand(images, 9, width, generator=generator) for width in channels)

    taps = tuple(f"stage{place}" for place in range(len(channels)))
    return TappedMaps(taps, network(), network(), network())


def test_spectra_are_the_singular_values_over_the_largest() -> None:
    matrices = random_maps(images=11).teacher[0]
    values = torch.linalg.svdvals(matrices.double())
    relative = (values / values[:, :1]).numpy()
    spectrum = spectrum_of(matrices, num_vectors=1)
    assert spectrum.mean.dtype == torch.float64
    torch.testing.assert_close(spectrum.mean, torch.from_numpy(relative.mean(0)))
    # Of 11 images the second is the 10 % quantile, the tenth the 90 % one.
    ordered = torch.from_numpy(relative).sort(dim=0).values
    torch.testing.assert_close(spectrum.low, ordered[1])
    torch.testing.assert_close(spectrum.high, ordered[9])


@pytest.mark.parametrize(
    ("values", "num_vectors", "close"),
    [
        ((4.0, 2.0, 1.0), 1, 0.0),
        ((4.0, 4.0, 1.0), 1, 1.0),
        ((4.0, 4.0 * (1 - 1e-6), 1.0), 1, 1.0),
        ((4.0, 4.0 * (1 - 1e-5), 1.0), 1, 0.0),
        ((4.0, 2.0, 2.0), 1, 0.0),
        ((4.0, 2.0, 2.0), 2, 1.0),
        ((4.0, 2.0, 0.0), 1, 0.0),
        ((4.0, 2.0, 0.0), 2, 1.0),
    ],
)
def test_values_are_close_where_the_gradient_of_float32_is_damped(
    values: tuple[float, ...], num_vectors: int, close: float
) -> None:
    matrix = torch.diag(torch.tensor(values, dtype=torch.float64))[None]
    assert spectrum_of(matrix, num_vectors).close == close


def test_a_dead_tap_has_no_spectrum_and_no_nan() -> None:
    spectrum = spectrum_of(torch.zeros(2, 4, 3), num_vectors=1)
    assert torch.equal(spectrum.mean, torch.zeros(3, dtype=torch.float64))
    assert spectrum.close == 1.0


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


def test_a_run_is_analysed_as_it_was_trained(distilled: Run) -> None:
    analysis = analyse(distilled, images=4)
    assert analysis is not None
    assert (analysis.images, analysis.num_vectors) == (4, 2)
    maps = tapped_maps(distilled, images=4)
    for tap, teacher, after in zip(analysis.spectra, maps.teacher, maps.after, strict=True):
        torch.testing.assert_close(tap.teacher.mean, spectrum_of(teacher, 2).mean)
        torch.testing.assert_close(tap.after.mean, spectrum_of(after, 2).mean)
        assert not torch.allclose(tap.before.mean, tap.after.mean)
    assert len(analysis.maps) == 3
    torch.testing.assert_close(analysis.maps[0].after, pair_maps(maps, 2, 8.0)[0].after)


def test_where_something_is_missing_there_is_no_analysis(distilled: Run) -> None:
    assert analyse(replace(distilled, config={**distilled.config, "teacher": ""})) is None
