import contextlib
import json
from dataclasses import fields, replace

import pytest

from stores import flipped, knowledge, manifest
from svdistill.common.errors import RunError
from svdistill.store.manifest import (
    DESCRIPTIONS,
    OUTCOME,
    Manifest,
    _digest,
    read_manifest,
    write_manifest,
)

# Another value for each field.
OTHER = {
    "svdistill": "9",
    "teacher": "b",
    "teacher_sha256": "b",
    "teacher_taps": ("a", "b"),
    "tap_shapes": ((64, 16, 16), (197, 384)),
    "data": "b",
    "data_fingerprint": "b",
    "images": 51,
    "class_names": ("cat", "cow"),
    "image_size": 32,
    "mean": (0.5, 0.5, 0.4),
    "std": (0.5, 0.5, 0.4),
    "loss": "b",
    "augmentation": "crop_flip",
    "views": 3,
    "views_seed": 1,
    "shard_images": 17,
    "structure": manifest(knowledge("svd")).structure,
}


@pytest.fixture
def whole():
    return manifest(knowledge())


@pytest.fixture
def path(tmp_path, whole):
    path = tmp_path / "manifest.json"
    write_manifest(path, whole)
    return path


def test_comes_back(path, whole):
    assert read_manifest(path) == whole
    finished = replace(whole, teacher_accuracy=87.5, complete=True)
    write_manifest(path, finished)
    assert read_manifest(path) == finished


def test_says_the_bytes_of_an_image(whole):
    assert whole.bytes_per_image == 4 * (2 + 2 + 16 + 48 + 100)


@pytest.mark.parametrize("name", OTHER)
def test_each_field_counts_in_the_identity(whole, name):
    changed = replace(whole, **{name: OTHER[name]})
    assert changed.identity() != whole.identity()
    assert changed.differences(whole) == ([] if name in DESCRIPTIONS else [name])


def test_a_teacher_in_another_precision_differs(whole):
    moved = replace(whole, teacher="elsewhere")
    assert moved.differences(replace(whole, teacher="runs/teacher in bf16")) == ["teacher"]


def test_the_outcome_does_not_count(whole):
    finished = replace(whole, teacher_accuracy=87.5, complete=True)
    assert finished.identity() == whole.identity()
    assert finished.differences(whole) == []
    assert set(OTHER) | set(OUTCOME) | {"version"} == {field.name for field in fields(Manifest)}


def test_every_flipped_bit_is_noticed(path):
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(flipped(content, place))
        # In the blanks between two words a bit may change nothing.
        with contextlib.suppress(RunError):
            assert read_manifest(path) == manifest(knowledge())


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_one_that_is_cut_short(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RunError, match=r"manifest\.json: expected"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("images", 0),
        ("images", 1.5),
        ("images", True),
        ("views", -1),
        ("views", "2"),
        ("views_seed", None),
        ("shard_images", 0),
        ("complete", 1),
        ("complete", "yes"),
        ("teacher_accuracy", "good"),
        ("teacher", None),
        ("loss", 3),
        ("class_names", "cat"),
        ("class_names", [1, 2]),
        ("mean", [0.5, "0.5", 0.5]),
        ("mean", [0.5, float("nan"), 0.5]),
        ("tap_shapes", [[64, 16, 16]]),
        ("tap_shapes", [[64, 16, 16], [64, 0]]),
        ("tap_shapes", [[64, 16, 16], [64, 1.5]]),
        ("tap_shapes", [[64, 16, 16], []]),
        ("tap_shapes", [1, 2]),
        ("tap_shapes", 3),
        ("structure", []),
        ("structure", None),
        ("more", 1),
    ],
)
def test_what_no_store_says_is_refused_though_the_checksum_is_right(path, name, value):
    content = json.loads(path.read_text())
    del content["sha256"]
    content[name] = value
    path.write_text(json.dumps({**content, "sha256": _digest(content)}))
    with pytest.raises(RunError, match=r"manifest\.json: expected the manifest of a knowledge"):
        read_manifest(path)


@pytest.mark.parametrize("content", ["[]", "3", "null", '{"version": 1}', '"text"'])
def test_other_json(path, content):
    path.write_text(content)
    with pytest.raises(RunError, match=r"manifest\.json: expected the manifest of a knowledge"):
        read_manifest(path)


def test_a_missing_one(tmp_path):
    with pytest.raises(RunError, match=r"manifest\.json: "):
        read_manifest(tmp_path / "manifest.json")
