from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from made_runs import made_run, random_maps
from svdistill.common import SVDistillError
from svdistill.losses import SVDLoss
from svdistill.networks import build_network
from svdistill.report import feature_maps
from svdistill.report.feature_maps import TappedMaps, analyse, pair_maps, spectrum_of, tapped_maps
from svdistill.report.networks import Missing
from svdistill.report.runs import Run
from svdistill.runs import load_student
from svdistill.taps import FeatureTaps, TapPairs
from svdistill.training import derive_seed, load_test_images

STAGES = tuple(f"stage{number}" for number in (1, 2, 3, 4))
OF_SEED = TapPairs(STAGES, STAGES)
OF_TIMM = TapPairs(("layer1", "layer2"), ("blocks.0", "blocks.3"))


def changed(run: Run, **config: object) -> Run:
    return replace(run, config={**run.config, **config})


def pictures(run: Run, count: int) -> torch.Tensor:
    """Test images normalised as the run's training images."""
    split, augmentation = load_test_images(run.path, count=count)
    batch = next(split.batches(count, device="cpu", order_seed=None))
    return augmentation.normalise(batch.images)


def test_maps_are_those_of_teacher_first_and_last_student(distilled: Run) -> None:
    maps = tapped_maps(distilled, OF_SEED, images=3)
    torch.manual_seed(derive_seed(3, "weights"))
    before = build_network("mobilenet_student", 10, 0.1).eval()
    networks = {
        "teacher": load_student(distilled.path.parent / "teacher"),
        "before": before,
        "after": load_student(distilled.path),
    }
    assert maps.taps == STAGES
    assert maps.missing == ()
    for name, network in networks.items():
        features = pictures(distilled, 3)
        for path, part in network.named_children():
            features = part(features)
            if path in maps.taps:
                expected = features.permute(0, 2, 3, 1).flatten(1, 2)
                found = getattr(maps, name)[maps.taps.index(path)]
                torch.testing.assert_close(found, expected, msg=f"{name} {path}")


def test_tokens_and_maps_of_other_libraries_are_tapped_too(of_timm: Run) -> None:
    maps = tapped_maps(of_timm, OF_TIMM, images=4)
    views = pictures(of_timm, 4)
    tokens = FeatureTaps(load_student(of_timm.path), OF_TIMM.student).run(views).features
    for found, expected in zip(maps.after, tokens, strict=True):
        torch.testing.assert_close(found, expected.detach())
    teacher = load_student(of_timm.path.parent / "teacher")
    (first, _) = FeatureTaps(teacher, OF_TIMM.teacher).run(views).features
    torch.testing.assert_close(maps.teacher[0], first.flatten(2).mT.detach())


def test_a_moved_teacher_can_be_given(distilled: Run) -> None:
    there = distilled.config["teacher"]
    moved = changed(distilled, teacher="gone")
    known = tapped_maps(distilled, OF_SEED, images=2).teacher[3]
    assert torch.equal(tapped_maps(moved, OF_SEED, there, 2).teacher[3], known)


def test_of_networks_that_are_not_at_hand_a_sentence_says_why(distilled: Run) -> None:
    run = changed(distilled, teacher="gone", weights="gone too")
    maps = tapped_maps(run, OF_SEED, images=2)
    assert (maps.teacher, maps.before, len(maps.after)) == ((), (), 4)
    before, teacher = maps.missing
    assert before.startswith("The student before is not shown: ")
    assert "gone too, which is not there" in before
    assert teacher.startswith("The teacher is not shown: ")
    unknown = tapped_maps(distilled, TapPairs((), STAGES), images=2)
    assert "tapped of it is not known" in unknown.missing[0]


def test_of_large_maps_fewer_images_are_looked_at(
    distilled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tapped_maps(distilled, OF_SEED, images=8)
    taps = (*whole.teacher, *whole.before, *whole.after)
    each = sum(4 * tap[0].numel() for tap in taps)
    monkeypatch.setattr(feature_maps, "MEMORY", 3.5 * each)
    assert len(tapped_maps(distilled, OF_SEED, images=8).after[0]) == 3
    monkeypatch.setattr(feature_maps, "MEMORY", 1)
    assert len(tapped_maps(distilled, OF_SEED, images=8).after[0]) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("object", "were given in Python, and cannot be read again"),
        ("hub:someone/pictures", "hub:someone/pictures, are on the hub"),
        ("parquet:/nowhere", "parquet:/nowhere, are not there"),
    ],
)
def test_images_that_cannot_be_read_are_named(distilled: Run, data: str, reason: str) -> None:
    with pytest.raises(Missing, match=reason):
        tapped_maps(changed(distilled, data=data), OF_SEED)


def test_images_of_other_classes_are_refused(distilled: Run, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (16, 16)).save(tmp_path / name / f"{number}.png")
    with pytest.raises(SVDistillError, match="10 classes"):
        tapped_maps(changed(distilled, data=f"folder:{tmp_path}"), OF_SEED)


def test_no_random_number_is_taken(distilled: Run) -> None:
    before = torch.get_rng_state()
    tapped_maps(distilled, OF_SEED, images=2)
    assert torch.equal(torch.get_rng_state(), before)


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
