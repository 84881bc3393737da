"""Recognise training, test and unlabelled splits by their names, in various spellings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from svdistill.common import ArgumentError, DataError, listed, nearest

Role = Literal["train", "test", "unlabelled"]

# Names of splits and their roles, in order of preference.
ROLES: Final[dict[str, Role]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "validation", "valid", "val", "dev"), "test"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsupervised"), "unlabelled"),
}

ORDER: Final = tuple(ROLES)

# Words that may accompany a split's name: training_set, train-images, DataTrain.
FILLERS: Final = (
    *("dataset", "datasets", "data", "set", "split", "folder", "dir"),
    *("images", "image", "imgs", "img", "pictures", "photos"),
)

CUT: Final = "cut"

WHOLE_FOLDER: Final = "."


class DataChoices(NamedTuple):
    """The columns and splits that the user chose; None leaves the choice to the library.

    Attributes:
        label_column: name of the column of a table that holds the labels.
        image_column: name of the column of a table that holds the images.
        train_split: name of the training split; ``.`` if a folder holds the classes itself.
        test_split: name of the test split; ``cut`` to cut one from the training split.
    """

    label_column: str | None = None
    image_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None


AUTOMATIC: Final = DataChoices()


def split_words(name: str) -> list[str]:
    """Return the words in a name that are names of splits, spelt as the keys of `ROLES`.

    Example:
        >>> split_words("My-Train-00000-of-2"), split_words("trainingSet"), split_words("trainee")
        (['train'], ['training'], [])
    """
    return [word for word in _words(name) if word in ROLES]


def split_role(name: str) -> Role | None:
    """Return the role of a name that contains one of `ROLES`; None for no role or several.

    Example:
        >>> split_role("data_train"), split_role("Eval"), split_role("train_val"), split_role("a")
        ('train', 'test', None, None)
    """
    roles = {ROLES[word] for word in split_words(name)}
    return roles.pop() if len(roles) == 1 else None


def folder_role(name: str) -> Role | None:
    """Return the role of a folder whose name says nothing but its split, else None.

    This is stricter than `split_role`, since folders may also be classes.

    Example:
        >>> folder_role("Training_Set"), folder_role("val2017"), folder_role("bullet_train")
        ('train', 'test', None)
    """
    others = [word for word in _words(name) if word not in (*ROLES, "")]
    return None if others else split_role(name)


def preferred(names: Iterable[str]) -> list[str]:
    """Sort names of splits by preference, such as ``test`` before ``Test`` before ``my_test``."""

    def place(name: str) -> tuple[bool, int, bool, str]:
        words = split_words(name)
        first = ORDER.index(words[0]) if words else len(ORDER)
        return name.lower() not in ROLES, first, name not in ROLES, name

    return sorted(names, key=place)


class FoundSplits(NamedTuple):
    """The splits of a data set, to choose among by the user's `DataChoices` or by their names.

    Attributes:
        source: name of the data set, for messages.
        names: names of all splits.
        role: function that returns the role of a name, or None.
    """

    source: str
    names: Sequence[str]
    role: Callable[[str], Role | None] = split_role

    def train(self, choices: DataChoices) -> str | None:
        """Return the split to train on: the user's, else the most usual name, else None."""
        if choices.train_split is not None:
            return chosen_split("train_split", choices.train_split, self.names)
        named = preferred(name for name in self.names if self.role(name) == "train")
        return named[0] if named else None

    def test(self, train: str, choices: DataChoices, labelled: Callable[[str], bool]) -> str | None:
        """Return the split to test on; None if one is to be cut from the training split.

        `labelled` tells whether a split has labels. Raises `DataError` if the test splits have
        none, or if it is unclear which split to test on.
        """
        if choices.test_split == CUT:
            return None
        others = [name for name in self.names if name != train]
        if choices.test_split is not None:
            named = [chosen_split("test_split", choices.test_split, others)]
        else:
            named = preferred(name for name in others if self.role(name) == "test")
        usable = [name for name in named if labelled(name)]
        unclear = [name for name in others if self.role(name) is None and labelled(name)]
        cut = f"--test_split cut to have one cut from {train!r}"
        if named and not usable:
            raise DataError(
                self.source,
                expected="a test split with a label for every image",
                got=f"missing labels in {listed(named)}",
                remedy="add them, or sort the images of a folder into folders named like those of "
                f"{train!r}, or give {cut}; for Tiny-ImageNet as published write "
                "tiny_imagenet:PATH",
            )
        if unclear and not usable:
            raise DataError(
                self.source,
                expected="one split to test on, named test or val",
                got=f"{listed(unclear)} beside {train!r}",
                remedy=f"give --test_split with its name, or {cut}; if all are folders of classes, "
                "give --train_split .",
            )
        return usable[0] if usable else None

    def unlabelled(self, choices: DataChoices) -> tuple[str | None, list[str]]:
        """Return the unlabelled split, else the training split or None; and all test splits."""

        def role(name: str) -> Role | None:
            if name.lower() == (choices.train_split or "").lower():
                return "train"
            return "test" if name.lower() == (choices.test_split or "").lower() else self.role(name)

        roles = {name: role(name) for name in self.names}
        named = preferred(name for name in roles if roles[name] in ("train", "unlabelled"))
        named.sort(key=lambda name: roles[name] != "unlabelled")
        return next(iter(named), None), [name for name in roles if roles[name] == "test"]


def chosen_split(option: str, name: str, names: Iterable[str]) -> str:
    """Return the split that the user named; case is ignored if no name matches exactly."""
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
    """Return the words of a name in lower case, each without the words of `FILLERS`."""
    return [_without_filler(word) for word in re.findall("[a-z]+", name.lower())]


def _without_filler(word: str) -> str:
    """Strip a filler off a split's name, as in ``trainingset``; a filler alone becomes empty."""
    if word in FILLERS:
        return ""
    for filler in FILLERS:
        for rest in (word.removesuffix(filler), word.removeprefix(filler)):
            if rest in ROLES:
                return rest
    return word
