import pytest

from svdistill.common.errors import ArgumentError
from svdistill.data.split_names import chosen_split, folder_role, preferred, split_role


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *[("train", "train"), ("Training", "train"), ("TRAINING_SET", "train")],
        *[("TrainData", "train"), ("images-train", "train"), ("train2017", "train")],
        *[("Test", "test"), ("testing", "test"), ("Val", "test"), ("eval", "test")],
        *[("dev_set", "test"), ("holdout", "test"), ("Unlabelled", "unlabelled")],
        *[("trainval", None), ("train_val", None), ("bullet_train", None), ("test tube", None)],
        *[("trainee", None), ("invalid", None), ("developer", None), ("images", None), ("", None)],
    ],
)
def test_what_a_folder_is(name, role):
    assert folder_role(name) == role


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *[
            ("data_train", "train"),
            ("cifar-Test-00000-of-00002", "test"),
            ("bullet_train", "train"),
        ],
        *[("train_val", None), ("restrained", None), ("latest", None)],
    ],
)
def test_what_a_file_is(name, role):
    assert split_role(name) == role


def test_the_obvious_name_comes_first():
    names = ["my_test", "eval", "Test", "val", "test"]
    assert preferred(names) == ["test", "Test", "val", "eval", "my_test"]


def test_a_chosen_split_in_any_case():
    assert chosen_split("test_split", "Fit", ["fit", "Fit"]) == "Fit"
    assert chosen_split("test_split", "FIT", ["fit"]) == "fit"
    for names, message in ((["a", "fit"], "did you mean 'fit'"), (["fit", "Fit"], "got 'FIT'")):
        wanted = "FIT" if "Fit" in names else "fti"
        with pytest.raises(ArgumentError, match=f"test_split: expected one of .*{message}"):
            chosen_split("test_split", wanted, names)
