import unicodedata
import warnings

import numpy as np
import pytest

from svdistill.common.errors import DataError
from svdistill.data import DataWarning
from svdistill.data.selection import check_presence, check_spelling

CAFE = "café"


def numbers(*labels):
    return np.array(labels, dtype=np.int64)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("bee", "Bee"), ("'bee'", "'Bee'")),
        (
            (unicodedata.normalize("NFC", CAFE), unicodedata.normalize("NFD", CAFE)),
            (r"'caf\\xe9'", r"'cafe\\u0301'"),
        ),
    ],
)
def test_splits_that_spell_a_class_differently(names, shown):
    labels = {"train": numbers(0, 0), "test": numbers(1)}
    message = rf"got {shown[0]} with 2 image\(s\) in train, {shown[1]} with 1 image\(s\) in test"
    with pytest.raises(DataError, match=message):
        check_spelling("insects", names, labels)


def test_splits_that_agree_may_tell_letters_by_their_case():
    labels = {"train": numbers(0, 1, 1), "test": numbers(0, 1)}
    message = r"only in case .*: 'a' with 1 image\(s\) in train and 1 in test, 'A' with 2"
    with pytest.warns(DataWarning, match=message):
        check_spelling("letters", ("a", "A"), labels)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 0, 1, 1], [0, 1, 2, 2], r"without training images: 'cat' \(2\), 1 class"),
        ([0, 0, 1, 1, 2, 2], [0, 1], r"without test images: 'cat' \(2\), 1 class"),
        ([0, 0, 1, 1, 2], [0, 1], r"classes of a single image: 'cat' \(1\)"),
        ([0, 0, 1, 1, 2], [0, 1, 2], r"single training image: 'cat' \(1\)"),
        ([0, 0, 1, 1], [0, 1], r"classes without any image: 'cat' \(0\)"),
    ],
)
def test_classes_that_only_one_split_has_are_told(train, test, message):
    with pytest.warns(DataWarning, match=message) as told:
        check_presence("insects", ("ant", "bee", "cat"), numbers(*train), numbers(*test))
    assert len(told) == 1


def test_nothing_to_tell():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_presence("insects", ("ant", "bee"), numbers(0, 0, 1, 1), numbers(0, 1))
        check_spelling("insects", ("ant", "bee"), {"train": numbers(0, 0, 1, 1)})


def test_test_images_of_other_classes_alone():
    with pytest.raises(DataError, match=r"got none of 'cat' \(2\), 1 class"):
        check_presence("insects", ("ant", "bee", "cat"), numbers(0, 1), numbers(2, 2))
