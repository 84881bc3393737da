import numpy as np

from svdistill.report.figure import band_of


def test_mean_and_reach_are_those_of_the_columns() -> None:
    curves = np.random.default_rng(0).random((5, 7))
    band = band_of(curves.tolist())
    np.testing.assert_allclose(band.mean, curves.mean(0))
    np.testing.assert_allclose(band.lowest, curves.min(0))
    np.testing.assert_allclose(band.highest, curves.max(0))
