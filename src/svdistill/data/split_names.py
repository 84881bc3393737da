"""Recognise the names of splits in any spelling: training, test and unlabelled images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from svdistill.common import ArgumentError, nearest

Role = Literal["train", "test", "unlabelled"]

# The names of each role, in order of preference.
ROLES: Final[dict[str, Role]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "validation", "valid", "val", "dev"), "test"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsupervised"), "unlabelled"),
}

ORDER: Final = tuple(ROLES)

# Words beside that of the split: training_set, train-images, DataTrain.
FILLERS: Final = (
    *("dataset", "datasets", "data", "set", "split", "folder", "dir"),
    *("images", "image", "imgs", "img", "pictures", "photos"),
)

CUT: Final = "cut"

WHOLE_FOLDER: Final = "."


class DataChoices(NamedTuple):
    """The user's choices among columns and splits; None chooses by name.

    Attributes:
        label_column: of a table.
        image_column: of a table.
        train_split: name of the training split; of a folder, ``.`` for the folder itself.
        test_split: name of the test split; ``cut`` for a part of the training split.
    """

    label_column: str | None = None
    image_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None


AUTOMATIC: Final = DataChoices()


def split_words(name: str) -> list[str]:
    """The words in a name that name a split, each as in `ROLES`.

    Example:
        >>> split_words("My-Train-00000-of-2"), split_words("trainingSet"), split_words("trainee")
        (['train'], ['training'], [])
    """
    return [word for word in map(_without_filler, _words(name)) if word in ROLES]


def split_role(name: str) -> Role | None:
    """The role of the split that a name contains; None without a split, or with several roles.

    Example:
        >>> split_role("data_train"), split_role("Eval"), split_role("train_val"), split_role("a")
        ('train', 'test', None, None)
    """
    roles = {ROLES[word] for word in split_words(name)}
    return roles.pop() if len(roles) == 1 else None


def folder_role(name: str) -> Role | None:
    """The role of a name that contains nothing but a split, since folders name classes too.

    Example:
        >>> folder_role("Training_Set"), folder_role("val2017"), folder_role("bullet_train")
        ('train', 'test', None)
    """
    others = [word for word in _words(name) if _without_filler(word) not in (*ROLES, "")]
    return None if others else split_role(name)


def role_for(name: str, choices: DataChoices, usual: Role | None) -> Role | None:
    """The role that the user chose for a split, in any case, else the usual one."""
    if name.lower() == (choices.train_split or "").lower():
        return "train"
    if name.lower() == (choices.test_split or "").lower():
        return "test"
    return usual


def preferred(names: Iterable[str]) -> list[str]:
    """Sort names of splits by preference: ``test`` before ``Test`` before ``my_test``."""

    def place(name: str) -> tuple[bool, int, bool, str]:
        words = split_words(name)
        first = ORDER.index(words[0]) if words else len(ORDER)
        return name.lower() not in ROLES, first, name not in ROLES, name

    return sorted(names, key=place)


def chosen_split(option: str, name: str, names: Iterable[str]) -> str:
    """Find the split that the user named, in any case.

    Raises:
        ArgumentError: there is none of that name, or several.
    """
    there = list(names)
    found = [other for other in there if other == name]
    found = found or [other for other in there if other.lower() == name.lower()]
    if len(found) != 1:
        raise ArgumentError(
            option,
            expected="one of " + ", ".join(map(repr, there)) if there else "nothing",
            got=repr(name),
            remedy=nearest(name, there) if there else "leave it out: there is no other split",
        )
    return found[0]


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())


def _without_filler(word: str) -> str:
    """``training`` for ``trainingset``; empty for a filler alone."""
    if word in FILLERS:
        return ""
    for filler in FILLERS:
        for rest in (word.removesuffix(filler), word.removeprefix(filler)):
            if rest in ROLES:
                return rest
    return word
