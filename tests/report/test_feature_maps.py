from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_runs import made_run

from svdistill.data import load_images
from svdistill.networks import build_network
from svdistill.report.feature_maps import tapped_maps, what_is_missing
from svdistill.report.runs import Run
from svdistill.training import load_student
from svdistill.training.seeding import derive_seed


def pictures(count: int) -> torch.Tensor:
    """Test images spread over all of them, normalised as the teacher's training images."""
    train = load_images("digits", train_size=100)
    images = next(train.test.batches(len(train.test), device="cpu", order_seed=None)).images
    chosen = images[[round((len(images) - 1) * place / (count - 1)) for place in range(count)]]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (train.mean, train.std))
    return (chosen / 255 - mean) / std


def test_maps_are_those_of_teacher_first_and_last_student(distilled: Run) -> None:
    maps = tapped_maps(distilled, images=3)
    torch.manual_seed(derive_seed(3, "weights"))
    before = build_network("mobilenet_student", 10, 0.1).eval()
    networks = {
        "teacher": load_student(distilled.path.parent / "teacher"),
        "before": before,
        "after": load_student(distilled.path),
    }
    assert maps.taps == ("stage1", "stage2", "stage3", "stage4")
    for name, network in networks.items():
        features = pictures(3)
        for path, part in network.named_children():
            features = part(features)
            if path in maps.taps:
                expected = features.permute(0, 2, 3, 1).flatten(1, 2)
                found = getattr(maps, name)[maps.taps.index(path)]
                torch.testing.assert_close(found, expected, msg=f"{name} {path}")


def test_a_moved_teacher_can_be_given(distilled: Run) -> None:
    there = distilled.config["teacher"]
    moved = replace(distilled, config={**distilled.config, "teacher": "gone"})
    assert what_is_missing(moved) == "its teacher, gone"
    assert what_is_missing(moved, there) is None
    assert torch.equal(
        tapped_maps(moved, there, 2).teacher[3], tapped_maps(distilled, images=2).teacher[3]
    )


def test_no_random_number_is_taken(distilled: Run) -> None:
    before = torch.get_rng_state()
    tapped_maps(distilled, images=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"teacher": ""}, "its teacher, which it read from a knowledge store"),
        ({"teacher": "module:attr"}, "its teacher, module:attr"),
        ({"teacher": "module:attr", "teacher_taps": ["a"]}, "its teacher, module:attr"),
        ({"teacher": "timm:resnet18"}, "its teacher, timm:resnet18"),
        ({"network": "module:attr"}, "a network of the seed's"),
        ({"weights": "start.safetensors"}, "the weights that it started from"),
        ({"data": "hub:someone/pictures"}, "its images, hub:someone/pictures"),
        ({"data": "parquet:/nowhere"}, "its images, parquet:/nowhere"),
    ],
)
def test_what_is_missing_is_named(
    distilled: Run,
    options: dict[str, object],
    missing: str,
) -> None:
    assert what_is_missing(distilled) is None
    changed = replace(distilled, config={**distilled.config, **options})
    assert what_is_missing(changed) == missing


def test_a_run_without_weights_says_so(tmp_path: Path, distilled: Run) -> None:
    assert what_is_missing(made_run("svd", loss="svd")) == "its weights (student.safetensors)"
    assert what_is_missing(distilled, tmp_path) == f"the weights of its teacher, {tmp_path}"
