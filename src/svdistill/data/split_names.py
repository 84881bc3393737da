"""Recognise the names of splits in any spelling: training, test and unlabelled images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from svdistill.common import ArgumentError, DataError, listed, nearest

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
    return [word for word in _words(name) if word in ROLES]


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
    others = [word for word in _words(name) if word not in (*ROLES, "")]
    return None if others else split_role(name)


def preferred(names: Iterable[str]) -> list[str]:
    """Sort names of splits by preference: ``test`` before ``Test`` before ``my_test``."""

    def place(name: str) -> tuple[bool, int, bool, str]:
        words = split_words(name)
        first = ORDER.index(words[0]) if words else len(ORDER)
        return name.lower() not in ROLES, first, name not in ROLES, name

    return sorted(names, key=place)


class FoundSplits(NamedTuple):
    """The splits of a data set, among which the user or their names choose.

    Attributes:
        source: name of the data set, for messages.
        names: all splits.
        role: what a name means.
    """

    source: str
    names: Sequence[str]
    role: Callable[[str], Role | None] = split_role

    def train(self, choices: DataChoices) -> str | None:
        """The split to train on: the chosen one, or the most usual name; None without any."""
        if choices.train_split is not None:
            return chosen_split("train_split", choices.train_split, self.names)
        named = preferred(name for name in self.names if self.role(name) == "train")
        return named[0] if named else None

    def test(self, train: str, choices: DataChoices, labelled: Callable[[str], bool]) -> str | None:
        """The split to test on, which is labelled; None to cut one from the training split."""
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
        """The split to learn from without labels, else to train on; and the test splits."""

        def role(name: str) -> Role | None:
            if name.lower() == (choices.train_split or "").lower():
                return "train"
            return "test" if name.lower() == (choices.test_split or "").lower() else self.role(name)

        roles = {name: role(name) for name in self.names}
        named = preferred(name for name in roles if roles[name] in ("train", "unlabelled"))
        named.sort(key=lambda name: roles[name] != "unlabelled")
        return next(iter(named), None), [name for name in roles if roles[name] == "test"]


def chosen_split(option: str, name: str, names: Iterable[str]) -> str:
    """The only split of the name that the user gave, in any case."""
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
    """The words in a name, each without fillers."""
    return [_without_filler(word) for word in re.findall("[a-z]+", name.lower())]


def _without_filler(word: str) -> str:
    """``training`` for ``trainingset``; empty for a filler alone."""
    if word in FILLERS:
        return ""
    for filler in FILLERS:
        for rest in (word.removesuffix(filler), word.removeprefix(filler)):
            if rest in ROLES:
                return rest
    return word
