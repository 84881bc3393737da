import base64
import io
import re
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from made_runs import lines, made_run, shows, texts
from svdistill.report.feature_figures import maps_figure, spectra_figure
from svdistill.report.feature_maps import Analysis, PairMaps, Spectrum, TapSpectra
from svdistill.report.figure import BLUE, VERMILION


def spectrum(*values: float, close: float = 0.0) -> Spectrum:
    mean = torch.tensor(values, dtype=torch.float64)
    return Spectrum(mean, 0.9 * mean, mean, close)


ANALYSIS = Analysis(
    made_run("svd", loss="svd", seed=5),
    images=64,
    num_vectors=1,
    spectra=(
        TapSpectra("stage1", *(spectrum(1.0, second, 0.1) for second in (0.6, 0.2, 0.5))),
        TapSpectra("stage2", *(spectrum(1.0, second) for second in (0.7, 0.3, 0.4))),
    ),
    maps=(),
)


def test_spectra_are_drawn_tap_by_tap() -> None:
    figure = spectra_figure(ANALYSIS)
    drawn = lines(figure.svg, BLUE)
    assert any(shows(line, np.log([1.0, 0.5, 0.1]).tolist()) for line in drawn)
    assert any(shows(line, np.log([1.0, 0.4]).tolist()) for line in drawn)
    assert {"stage1", "stage2", "teacher", "student before", "student after"} <= set(
        texts(figure.svg)
    )
    said = "stage1: teacher 0.60, student before 0.20, student after 0.50"
    assert said in figure.alt
    assert "VGG, SVD, seed 5" in figure.title


def test_the_caption_says_how_often_values_are_close() -> None:
    assert "In no image" in spectra_figure(ANALYSIS).caption
    tap = TapSpectra("stage4", spectrum(1.0), spectrum(1.0, close=0.25), spectrum(1.0))
    caption = spectra_figure(replace(ANALYSIS, spectra=(tap,))).caption
    assert "stage4, student before 25.0%" in caption
    assert "student after" not in caption


def test_networks_that_are_not_at_hand_are_left_out() -> None:
    tap = TapSpectra("stage1", None, None, spectrum(1.0, 0.5, 0.1))
    figure = spectra_figure(replace(ANALYSIS, spectra=(tap,)))
    assert "student after" in texts(figure.svg)
    assert "teacher" not in texts(figure.svg)
    assert lines(figure.svg, VERMILION) == []


def test_many_taps_take_several_rows_and_long_paths_are_cut() -> None:
    names = [f"a_network.with.many.stages.{number}" for number in range(6)]
    taps = tuple(TapSpectra(name, None, None, spectrum(1.0, 0.5)) for name in names)
    shown = texts(spectra_figure(replace(ANALYSIS, spectra=taps)).svg)
    titles = [text for text in shown if text.startswith("…")]
    assert [title[-1] for title in titles] == list("012345")
    assert max(map(len, titles)) < 30


def test_a_tap_of_one_position_says_that_it_has_one_value() -> None:
    tap = TapSpectra("head", *(spectrum(1.0) for _ in range(3)))
    assert "one value only" in texts(spectra_figure(replace(ANALYSIS, spectra=(tap,))).svg)


def test_only_the_svd_loss_speaks_of_close_values() -> None:
    run = made_run("positions", loss="position_svd")
    assert "close" not in spectra_figure(replace(ANALYSIS, run=run)).caption


def pair(front: int = 3, back: int = 2) -> PairMaps:
    teacher, before, after = (
        torch.rand(front, back, generator=torch.Generator().manual_seed(seed)) for seed in range(3)
    )
    orders = torch.arange(front).flip(0), torch.arange(back)
    return PairMaps("stage1", "stage2", teacher, before, after, *orders)


RUN = made_run("svd", loss="svd", seed=5)
MAPS = Analysis(RUN, images=64, num_vectors=1, spectra=(), maps=(pair(),))


def heat_maps(svg: str) -> list[np.ndarray]:
    """The pictures inside, without those of the colour bars."""
    found = re.findall(r'base64,([^"]*)"', svg)
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]
    return [image for image in images if 1 not in image.shape[:2] and max(image.shape[:2]) <= 96]


def test_heat_maps_have_the_teachers_order_and_a_pixel_a_cell() -> None:
    figure = maps_figure(MAPS)
    assert figure is not None
    teacher, before, after, *differences = heat_maps(figure.svg)
    assert len(differences) == 2
    assert {image.shape for image in (teacher, before, after, *differences)} == {(3, 2, 4)}
    # Cividis grows lighter with the value, so that the order of the pixels is that of the entries.
    for image, values in ((teacher, pair().teacher), (after, pair().after)):
        assert brightness_order(image) == brightness_order(values.flip(0))


def brightness_order(picture: np.ndarray | Tensor) -> list[int]:
    """Places of the cells from the darkest to the lightest."""
    cells = np.asarray(picture, dtype=float)
    flat = cells[..., :3].sum(-1).ravel() if cells.ndim == 3 else cells.ravel()
    return flat.argsort().tolist()


def test_large_maps_are_averaged_and_their_distance_is_of_all_entries() -> None:
    large = pair(200, 100)
    figure = maps_figure(replace(MAPS, maps=(large,)))
    assert figure is not None
    assert {image.shape[:2] for image in heat_maps(figure.svg)} == {(96, 96)}
    distance = float((large.after - large.teacher).square().sum())
    assert f"squares: {distance:.2g}" in texts(figure.svg)
    assert len(figure.svg) < 400_000


def test_without_maps_there_is_no_figure() -> None:
    assert maps_figure(replace(MAPS, maps=())) is None


def test_without_the_student_before_three_pictures_are_left() -> None:
    figure = maps_figure(replace(MAPS, maps=(replace(pair(), before=None),)))
    assert figure is not None
    assert len(heat_maps(figure.svg)) == 3
    assert "after − teacher" in texts(figure.svg)
    assert not any("before" in text for text in texts(figure.svg))
