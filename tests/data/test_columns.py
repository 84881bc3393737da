import io
import warnings

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features
from PIL import Image

from picture_files import in_order, in_turn, noise, table, write_parquet
from svdistill.common.errors import ArgumentError, DataError
from svdistill.data import DataWarning, load_images

IMAGES, LABELS = noise(12), in_turn(12)


def plain(labels, name="label"):
    """A table whose labels are plain integers or texts."""
    rows = table(IMAGES, LABELS).remove_columns("label")
    return rows.add_column(name, list(labels))


def labels_and_names(data):
    """All labels by class name, of both splits together."""
    labels = np.concatenate([in_order(split)[1] for split in (data.train, data.test)])
    return sorted(data.class_names[label] for label in labels), data.class_names


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([2, 10, 2] * 4, ("2", "10")),
        (["wasp", "ant", "bee"] * 4, ("ant", "bee", "wasp")),
        (np.array([1, 0, 7] * 4, dtype=np.uint8).tolist(), ("0", "1", "7")),
    ],
)
def test_labels_may_be_integers_or_texts(values, names):
    data = load_images(plain(values))
    assert labels_and_names(data) == (sorted(map(str, values)), names)


def test_a_column_of_another_name_is_taken_when_asked_for():
    rows = plain(["a", "b"] * 6, "kind")
    with pytest.raises(DataError, match=r"expected a label column .*give .*--label_column"):
        load_images(rows)
    assert load_images(rows, label_column="kind").class_names == ("a", "b")
    with pytest.raises(ArgumentError, match=r"label_column: .*got 'kin'; did you mean 'kind'"):
        load_images(rows, label_column="kin")
    with pytest.raises(DataError, match="class labels, integers or strings in 'img'"):
        load_images(rows, label_column="img")


@pytest.mark.parametrize("missing", [-1, None])
def test_a_missing_label_is_no_class(missing):
    with pytest.raises(DataError, match="labels 0 to 1, got label -1 in row 1"):
        load_images(plain([0, missing, 1] * 4))
    with (
        pytest.raises(DataError, match="at least 2 classes"),
        pytest.warns(DataWarning, match="labels -7 of 'label' are taken as missing"),
    ):
        load_images(plain([-7, 3] * 6))


def two_of_each():
    rows = table(IMAGES, LABELS).add_column("sub", [*range(6)] * 2)
    rows = rows.cast_column("sub", ClassLabel(names=list("uvwxyz")))
    masks = table(noise(12, seed=1), LABELS).rename_column("img", "mask")
    masks = masks.select_columns(["mask"])
    features = Features({**masks.features, **rows.features})
    return Dataset.from_dict({**masks[:], **rows[:]}, features=features)


def test_the_obvious_columns_win_and_the_choice_is_told():
    with pytest.warns(DataWarning) as notes:
        data = load_images(two_of_each())
    told = [str(note.message) for note in notes]
    assert "Dataset: takes image_column 'img', not 'mask'; --image_column chooses another" in told
    assert "Dataset: takes label_column 'label', not 'sub'; --label_column chooses another" in told
    assert data.class_names == ("ant", "bee", "cat")
    assert {image.tobytes() for image in in_order(data.train)[0]} <= {i.tobytes() for i in IMAGES}


def test_options_choose_the_others():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "takes")
        data = load_images(two_of_each(), label_column="sub", image_column="mask")
    assert data.class_names == tuple("uvwxyz")
    images = {image.tobytes() for image in in_order(data.train)[0]}
    assert images <= {image.tobytes() for image in noise(12, seed=1)}


def test_bytes_that_do_not_say_what_they_are(tmp_path):
    encoded = []
    for image in IMAGES:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        encoded.append(file.getvalue())
    for cells in (encoded, [{"bytes": cell, "path": None} for cell in encoded]):
        rows = pyarrow.table({"photo": cells, "label": LABELS})
        pyarrow.parquet.write_table(rows, tmp_path / "train.parquet")
        data = load_images(f"parquet:{tmp_path}", image_column="photo")
        expected = load_images(table(IMAGES, LABELS))
        assert np.array_equal(in_order(data.train)[0], in_order(expected.train)[0])


@pytest.mark.parametrize(
    ("spec", "name"), [("digits", "label_column"), ("digits", "test_split"), (None, "image_column")]
)
def test_a_choice_that_a_source_does_not_have(tmp_path, spec, name):
    with pytest.raises(ArgumentError, match=f"{name}: expected nothing beside"):
        load_images(spec or f"folder:{tmp_path}", **{name: "x"})


def test_class_names_differ_between_splits_of_texts(tmp_path):
    for split, names in (("train", ["bee", "ant"]), ("test", ["Bee", "ant"])):
        plain(names * 6).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"'Bee' with 6 image\(s\) in test, 'bee' with 6 .* train"):
        load_images(f"parquet:{tmp_path}")


def test_a_class_of_one_split_is_told(tmp_path):
    write_parquet(tmp_path / "train.parquet", IMAGES, LABELS % 2)
    write_parquet(tmp_path / "test.parquet", IMAGES, LABELS)
    with pytest.warns(DataWarning, match=r"without training images: 'cat' \(4\), 1 class"):
        load_images(f"parquet:{tmp_path}")
