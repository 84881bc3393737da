from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from svdistill.common.errors import SVDistillError
from svdistill.networks import build_network
from svdistill.report import maps as feature_maps
from svdistill.report.maps import tapped_maps
from svdistill.report.rebuilding import Missing
from svdistill.report.runs import Run
from svdistill.runs import load_student
from svdistill.taps import FeatureTaps, TapPairs
from svdistill.training.evaluation import load_test_images
from svdistill.training.reproducibility import derive_seed

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
