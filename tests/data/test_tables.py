import errno
import os

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from picture_files import NAMES, in_turn, labels_of, noise, table, write_parquet
from svdistill.common.errors import DataError, MachineError
from svdistill.data import DataWarning
from svdistill.data.split_names import AUTOMATIC, DataChoices
from svdistill.data.tables import read_hub, read_parquet, tables_of

IMAGES, LABELS = noise(6), in_turn(6)


# Parquet


def test_a_folder_of_parquet_files(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", IMAGES[:4], [0, 1, 2, 2])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", IMAGES[4:], [1, 0])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", IMAGES[:2], [2, 2])
    tables = read_parquet(tmp_path)
    assert labels_of(tables) == {"train": [0, 1, 2, 2, 1, 0], "test": [2, 2]}
    assert (tables.image_column, tables.label_column) == ("img", "label")
    assert tables.class_names == NAMES
    assert tables.labels("train").dtype == np.int64
    assert tables.source == str(tmp_path)
    assert tables.chosen(AUTOMATIC) == ("train", "test")


@pytest.mark.parametrize(
    "name",
    ["pictures.parquet", "all.parquet", "train.parquet", "test-0.parquet", "trainees.parquet"],
)
def test_a_single_parquet_file_is_what_to_train_on(tmp_path, name):
    tables = read_parquet(write_parquet(tmp_path / name, IMAGES, LABELS))
    assert list(labels_of(tables).values()) == [LABELS.tolist()]
    train, test = tables.chosen(AUTOMATIC)
    assert tables.labels(train).tolist() == LABELS.tolist()
    assert test is None


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train-0", "val-0"], "train", "val"),
        (["train", "validation"], "train", "validation"),
        (["train-00000-of-00001", "valid-00000-of-00001"], "train", "valid"),
        (["training_a", "dev_a"], "training", "dev"),
        (["train-0", "test-0", "validation-0"], "train", "test"),
        (["train-0"], "train", None),
    ],
)
def test_the_names_of_files_tell_the_splits(tmp_path, names, train, test):
    for name in names:
        write_parquet(tmp_path / f"{name}.parquet", IMAGES, LABELS)
    tables = read_parquet(tmp_path)
    assert tables.chosen(AUTOMATIC) == (train, test)


def test_a_path_with_characters_that_mean_something_elsewhere(tmp_path):
    folder = tmp_path / "my [old] *images* {a,b} ?"
    write_parquet(folder / "train-0.parquet", IMAGES, LABELS)
    assert read_parquet(folder).labels("train").tolist() == LABELS.tolist()


def test_of_two_label_columns_the_one_with_more_classes_is_taken(tmp_path):
    both = table(IMAGES, LABELS).add_column("coarse", [0, 1] * 3)
    both = both.cast_column("coarse", ClassLabel(names=["land", "sea"]))
    both.select_columns(["coarse", "img", "label"]).to_parquet(tmp_path / "train.parquet")
    tables = read_parquet(tmp_path)
    assert (tables.label_column, tables.class_names) == ("label", NAMES)


def test_a_test_split_without_labels_gives_way_to_one_with_labels(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", IMAGES, LABELS)
    write_parquet(tmp_path / "test-0.parquet", IMAGES, [-1] * 6)
    with pytest.raises(DataError, match=r"missing labels in 'test'; add them"):
        read_parquet(tmp_path).chosen(AUTOMATIC)
    write_parquet(tmp_path / "validation-0.parquet", IMAGES, LABELS)
    assert read_parquet(tmp_path).chosen(AUTOMATIC)[1] == "validation"


def test_missing_labels_are_minus_one(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", IMAGES, [0, None, 2, 1, None, 0])
    assert read_parquet(path).labels("images").tolist() == [0, -1, 2, 1, -1, 0]


def test_no_split_to_train_on(tmp_path):
    for name in ("test", "val"):
        write_parquet(tmp_path / f"{name}-0.parquet", IMAGES, LABELS)
    with pytest.raises(DataError, match="expected a split named 'train', got 'test', 'val'"):
        read_parquet(tmp_path).chosen(AUTOMATIC)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"gone\.parquet: expected a whole Parquet file, got .*No"):
        read_parquet(tmp_path / "gone.parquet")


def test_a_folder_without_parquet_files(tmp_path):
    with pytest.raises(DataError, match="got a folder without Parquet files; check the path"):
        read_parquet(tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 500, -1])
def test_a_truncated_parquet_file(tmp_path, kept):
    path = write_parquet(tmp_path / "train-0.parquet", IMAGES, LABELS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"train-0\.parquet: expected a whole Parquet file, got "):
        read_parquet(tmp_path)


def test_a_parquet_file_with_damaged_pages(tmp_path):
    path = write_parquet(tmp_path / "train-0.parquet", IMAGES, LABELS)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(byte ^ 0x5A for byte in content[4:200])
    path.write_bytes(content)
    with pytest.raises(DataError, match="copy damaged ones again"):
        read_parquet(tmp_path)


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        ("img", r"an image column \(Image\)"),
        ("label", r"a label column \(ClassLabel\), or integers or strings named 'label'"),
    ],
)
def test_a_table_without_images_or_labels(tmp_path, column, wanted):
    rest = table(IMAGES, LABELS).remove_columns(column).add_column("size", list(range(6)))
    rest.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=rf"expected {wanted}, got the columns .*size \(Value\)"):
        read_parquet(tmp_path)


def test_a_parquet_file_that_datasets_did_not_write(tmp_path):
    plain = pyarrow.table({"img": [b"abc"], "label": [1]})
    pyarrow.parquet.write_table(plain, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"img \(Value\), label \(Value\); give --image_column"):
        read_parquet(tmp_path)


def test_features_that_nobody_knows(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", IMAGES, LABELS)
    content = pyarrow.parquet.read_table(path)
    metadata = {b"huggingface": b'{"info": {"features": {"img": {"_type": "Hologram"}}}}'}
    pyarrow.parquet.write_table(content.replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match=r"train\.parquet: .*Hologram"):
        read_parquet(tmp_path)


@pytest.mark.parametrize("names", [("bee", "ant", "cat"), ("ant", "bee", "cat", "dog"), NAMES[:2]])
def test_splits_that_number_their_classes_differently(tmp_path, names):
    write_parquet(tmp_path / "train-0.parquet", IMAGES, in_turn(6) % 2)
    write_parquet(tmp_path / "test-0.parquet", IMAGES, in_turn(6) % 2, names)
    message = r"train-0\.parquet: expected the columns and class names of test-0\.parquet"
    with pytest.raises(DataError, match=message):
        read_parquet(tmp_path)


def test_reading_leaves_progress_bars_as_they_were(tmp_path, capfd):
    path = write_parquet(tmp_path / "a.parquet", IMAGES, LABELS)
    capfd.readouterr()
    datasets.enable_progress_bars()
    read_parquet(path)
    assert datasets.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_a_file_under_two_names_and_a_pipe_are_refused(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", IMAGES, LABELS)
    (tmp_path / "test.parquet").symlink_to(path)
    with pytest.raises(DataError, match=r"got t\w+\.parquet and t\w+\.parquet, which are links to"):
        read_parquet(tmp_path)
    (tmp_path / "test.parquet").unlink()
    os.mkfifo(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet: .*got a pipe or a device"):
        read_parquet(tmp_path)


# Splits in other spellings


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["Train", "Test"], "train", "test"),
        (["data_train", "data_test"], "train", "test"),
        (["cifar-train-00000-of-2", "cifar-train-00001-of-2", "cifar-EVAL"], "train", "eval"),
        (["fit", "heldback"], "fit", "heldback"),
        (["my-fit", "a b"], "my-fit", "a b"),
    ],
)
def test_files_in_other_spellings(tmp_path, names, train, test):
    for name in names:
        write_parquet(tmp_path / f"{name}.parquet", IMAGES, LABELS)
    known = train == "train"
    wanted = DataChoices() if known else DataChoices(train_split=train, test_split=test)
    tables = read_parquet(tmp_path, wanted)
    assert tables.chosen(wanted) == (train, test)
    assert len(tables.labels(train)) == 6 * (len(names) - 1)
    if not known:
        assert list(read_parquet(tmp_path).splits) == ["images"]


@pytest.mark.parametrize("names", [("train", "heldback"), ("test",), ("test", "heldback")])
def test_files_that_may_be_splits_are_refused(tmp_path, names):
    for name in names:
        write_parquet(tmp_path / f"{name}.parquet", IMAGES, LABELS)
    tables = read_parquet(tmp_path)
    with pytest.raises(DataError, match=r"give --t\w+_split with"):
        tables.chosen(AUTOMATIC)
    assert tables.chosen(DataChoices(train_split=names[0], test_split="cut"))[1] is None


def test_files_that_are_not_read_are_told(tmp_path):
    write_parquet(tmp_path / "Train.PARQUET", IMAGES, LABELS)
    write_parquet(tmp_path / "more" / "test.parquet", IMAGES, LABELS)
    (tmp_path / "._train.parquet").touch()
    (tmp_path / "Test.csv").touch()
    with pytest.warns(DataWarning) as told:
        assert len(read_parquet(tmp_path).labels("train")) == 6
    for part in ("1 hidden", "in folders, or compressed ('more/test", "like splits ('Test.csv')"):
        assert part in str(told[0].message)


@pytest.mark.parametrize("keys", [("Train", "Test"), ("training", "EVAL"), ("train", "my_test")])
def test_keys_of_a_dictionary_in_other_spellings(keys):
    tables = tables_of("it", DatasetDict({key: table(IMAGES, LABELS) for key in keys}))
    assert tables.chosen(AUTOMATIC) == keys


def test_a_cache_that_cannot_be_written_is_not_called_damaged(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "train.parquet", IMAGES, LABELS)
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(MachineError, match=r"file.cache: expected a cache directory .*HF_HOME"):
        read_parquet(path)


def test_a_full_disk_is_not_called_a_bad_name(monkeypatch):
    def load(name):
        raise datasets.exceptions.DatasetGenerationError("wrapped") from OSError(
            errno.ENOSPC, "No space left on device"
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(MachineError, match="got No space left on device; make space"):
        read_hub("a/b")


# The hub


def test_a_data_set_of_the_hub(monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return DatasetDict(train=table(IMAGES, LABELS), test=table(IMAGES[:2], [2, 1]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    tables = read_hub("someone/insects")
    assert asked == ["someone/insects"]
    assert labels_of(tables) == {"train": LABELS.tolist(), "test": [2, 1]}


@pytest.mark.parametrize("test", ["test", "validation", "valid", "val", "dev"])
def test_a_test_split_of_the_hub_by_any_of_its_names(monkeypatch, test):
    splits = DatasetDict({"train": table(IMAGES, LABELS), test: table(IMAGES[:2], [2, 1])})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    tables = read_hub("someone/insects")
    assert tables.chosen(AUTOMATIC) == ("train", test)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no way to the hub"),
        datasets.exceptions.DatasetNotFoundError("no way to the hub"),
        RuntimeError("no way to the hub"),
        ValueError("no way to the hub"),
    ],
)
def test_a_hub_that_does_not_answer(monkeypatch, error):
    def load(name):
        raise datasets.exceptions.DatasetGenerationError("wrapped") from error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"hub:a/b: .*got no way to the hub; .*parquet:PATH"):
        read_hub("a/b")


def test_a_data_set_of_the_hub_that_is_not_about_images(monkeypatch):
    text = Dataset.from_dict({"text": ["a"]}, features=Features(text=Value("string")))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: DatasetDict(train=text))
    with pytest.raises(DataError, match=r"hub:a/b: expected an image column .*text \(Value\)"):
        read_hub("a/b")
