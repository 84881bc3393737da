import base64
import io
import re
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from made_runs import made_run, texts
from svdistill.report.feature_figures import maps_figure
from svdistill.report.feature_maps import Analysis, PairMaps


def pair(front: int = 3, back: int = 2) -> PairMaps:
    teacher, before, after = (
        torch.rand(front, back, generator=torch.Generator().manual_seed(seed)) for seed in range(3)
    )
    orders = torch.arange(front).flip(0), torch.arange(back)
    return PairMaps("stage1", "stage2", teacher, before, after, *orders)


RUN = made_run("svd", loss="svd", seed=5)
ANALYSIS = Analysis(RUN, images=64, num_vectors=1, spectra=(), maps=(pair(),))


def heat_maps(svg: str) -> list[np.ndarray]:
    """The pictures inside, without those of the colour bars."""
    found = re.findall(r'base64,([^"]*)"', svg)
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]
    return [image for image in images if 1 not in image.shape[:2] and max(image.shape[:2]) <= 96]


def test_heat_maps_have_the_teachers_order_and_a_pixel_a_cell() -> None:
    figure = maps_figure(ANALYSIS)
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
    figure = maps_figure(replace(ANALYSIS, maps=(large,)))
    assert figure is not None
    assert {image.shape[:2] for image in heat_maps(figure.svg)} == {(96, 96)}
    distance = float((large.after - large.teacher).square().sum())
    assert f"squares: {distance:.2g}" in texts(figure.svg)
    assert len(figure.svg) < 400_000


def test_without_maps_there_is_no_figure() -> None:
    assert maps_figure(replace(ANALYSIS, maps=())) is None


def test_without_the_student_before_three_pictures_are_left() -> None:
    figure = maps_figure(replace(ANALYSIS, maps=(replace(pair(), before=None),)))
    assert figure is not None
    assert len(heat_maps(figure.svg)) == 3
    assert "after − teacher" in texts(figure.svg)
    assert not any("before" in text for text in texts(figure.svg))
