"""Which split a name means, in whatever spelling: to train on, to test on, or without labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from svdistill.common import ArgumentError, nearest

Role = Literal["train", "test", "unlabelled"]


# In the order in which they are preferred.
TRAIN_NAMES: Final = ("train", "training")

TEST_NAMES: Final = (
    *("test", "testing", "validation", "valid", "val", "dev"),
    *("eval", "evaluation", "holdout", "heldout"),
)

UNLABELLED_NAMES: Final = ("unlabeled", "unlabelled", "unsupervised")

ROLES: Final[dict[str, Role]] = {
    **dict.fromkeys(TRAIN_NAMES, "train"),
    **dict.fromkeys(TEST_NAMES, "test"),
    **dict.fromkeys(UNLABELLED_NAMES, "unlabelled"),
}

ORDER: Final = tuple(ROLES)

# Words beside that of the split: training_set, train-images, DataTrain.
FILLERS: Final = (
    *("dataset", "datasets", "data", "set", "split", "folder", "dir"),
    *("images", "image", "imgs", "img", "pictures", "photos"),
)

CUT: Final = "cut"

HERE: Final = "."


class Wanted(NamedTuple):
    """What a person chose among several; None for the obvious one.

    Attributes:
        label_column: of a table.
        image_column: of a table.
        train_split: name of the split to train on; of a folder, ``.`` for the folder itself.
        test_split: name of the split to test on; ``cut`` for a part of the training split.
    """

    label_column: str | None = None
    image_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None


ANY: Final = Wanted()


def split_words(name: str) -> list[str]:
    """The words in a name that name a split, each as in `ROLES`.

    Example:
        >>> split_words("My-Train-00000-of-2"), split_words("trainingSet"), split_words("trainee")
        (['train'], ['training'], [])
    """
    words = (_without_filler(word) for word in _words(name))
    return [word for word in words if word in ROLES]


def split_role(name: str) -> Role | None:
    """What a name with a word of a split in it means; None without one or with several.

    Example:
        >>> split_role("data_train"), split_role("Eval"), split_role("train_val"), split_role("a")
        ('train', 'test', None, None)
    """
    roles = {ROLES[word] for word in split_words(name)}
    return roles.pop() if len(roles) == 1 else None


def folder_role(name: str) -> Role | None:
    """What a name means that names a split and nothing else: classes are named by words too.

    Example:
        >>> folder_role("Training_Set"), folder_role("val2017"), folder_role("bullet_train")
        ('train', 'test', None)
    """
    others = [word for word in _words(name) if _without_filler(word) not in (*ROLES, "")]
    return None if others else split_role(name)


def role_for(name: str, wanted: Wanted, usual: Role | None) -> Role | None:
    """What a split is to a person who named the ones to train and test on; else the usual."""
    if name in (wanted.train_split, wanted.test_split):
        return "train" if name == wanted.train_split else "test"
    return usual


def preferred(names: Iterable[str]) -> list[str]:
    """Sort names of splits by how obvious they are: ``test`` before ``Test`` before ``my_test``."""

    def place(name: str) -> tuple[bool, int, bool, str]:
        words = split_words(name)
        first = ORDER.index(words[0]) if words else len(ORDER)
        return name.lower() not in ROLES, first, name not in ROLES, name

    return sorted(names, key=place)


def wanted_split(option: str, wanted: str, names: Iterable[str]) -> str:
    """The split that a person named, in any case.

    Raises:
        ArgumentError: there is none of that name, or several.
    """
    there = list(names)
    found = [name for name in there if name == wanted]
    found = found or [name for name in there if name.lower() == wanted.lower()]
    if len(found) != 1:
        raise ArgumentError(
            option,
            expected="one of " + ", ".join(map(repr, there)) if there else "nothing",
            got=repr(wanted),
            remedy=nearest(wanted, there) if there else "leave it out: there is no other split",
        )
    return found[0]


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())


def _without_filler(word: str) -> str:
    """``training`` of trainingset, nothing of a word that says no more than that it is a set."""
    if word in FILLERS:
        return ""
    for filler in FILLERS:
        for rest in (word.removesuffix(filler), word.removeprefix(filler)):
            if rest in ROLES:
                return rest
    return word
