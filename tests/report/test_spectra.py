from dataclasses import replace

import pytest
import torch

from made_runs import made_run, random_maps
from svdistill.report.feature_maps import analyse, pair_maps, spectrum_of, tapped_maps
from svdistill.report.runs import Run
from svdistill.taps import TapPairs

STAGES = tuple(f"stage{number}" for number in (1, 2, 3, 4))


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


def test_a_run_is_analysed_as_it_was_trained(distilled: Run) -> None:
    maps = tapped_maps(distilled, TapPairs(STAGES, STAGES), images=4)
    analysis = analyse(distilled, maps)
    assert (analysis.images, analysis.num_vectors) == (4, 2)
    for tap, teacher, after in zip(analysis.spectra, maps.teacher, maps.after, strict=True):
        assert tap.teacher is not None
        assert tap.before is not None
        torch.testing.assert_close(tap.teacher.mean, spectrum_of(teacher, 2).mean)
        torch.testing.assert_close(tap.after.mean, spectrum_of(after, 2).mean)
        assert not torch.allclose(tap.before.mean, tap.after.mean)
    assert len(analysis.maps) == 3
    torch.testing.assert_close(analysis.maps[0].after, pair_maps(maps, 2, 8.0)[0].after)


def test_what_is_not_at_hand_has_no_spectra() -> None:
    maps = replace(random_maps(), teacher=(), before=())
    analysis = analyse(made_run("svd", loss="svd"), maps)
    assert [(tap.tap, tap.teacher, tap.before) for tap in analysis.spectra] == [
        (f"stage{place}", None, None) for place in range(3)
    ]
    assert analysis.maps == ()
