"""Names of the data sets in a report; different data sets get different names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from svdistill.config import OBJECT
from svdistill.report.runs import Run, class_choice, dataset_name

# Options that, besides the data set and its classes, decide which images a run used.
IMAGE_OPTIONS: Final = (
    *("image_size", "train_size", "test_size", "dev_fraction", "unlabelled"),
    *("label_column", "image_column", "train_split", "test_split"),
)


class Images(NamedTuple):
    """What a run recorded of its images; None for what it did not."""

    spec: str
    num_classes: int
    class_names: frozenset[str] | None
    options: tuple[object, ...]
    fingerprint: str | None

    def are_others(self, other: Images) -> bool:
        """Whether two runs are known to have used different data sets.

        A data set may have moved to another place. Fingerprints tell it from another one if both
        runs chose their images alike.
        """
        if self.spec == other.spec == OBJECT:
            return self.fingerprint != other.fingerprint
        if self.num_classes != other.num_classes:
            return True
        if self.class_names is not None and other.class_names is not None:
            return self.class_names != other.class_names
        prints = {self.fingerprint, other.fingerprint}
        comparable = None not in prints and self.options == other.options
        return self.spec != other.spec and comparable and len(prints) > 1


def data_names(runs: Sequence[Run]) -> dict[Path, str]:
    """The name of each run's data set, with its choice of classes, by the run's path.

    If different data sets have one name, the ends of their paths are added, or else their numbers
    of classes.
    """
    images = {run.path: _images(run) for run in runs}
    named: dict[tuple[str, str], dict[Images, list[Path]]] = {}
    for run in runs:
        chosen = class_choice(run.config)
        key = dataset_name(run.config), "" if chosen == "all classes" else chosen
        named.setdefault(key, {}).setdefault(images[run.path], []).append(run.path)
    found: dict[Path, str] = {}
    for (name, chosen), paths in named.items():
        sets = _data_sets(list(paths))
        for members, text in zip(sets, _texts([one[0] for one in sets]), strict=True):
            more = ", ".join(filter(None, [chosen, text]))
            whole = f"{name} ({more})" if more else name
            found |= {path: whole for one in members for path in paths[one]}
    return found


def _images(run: Run) -> Images:
    names = None if run.predictions is None else frozenset(run.predictions.class_names)
    return Images(
        str(run.config["data"]),
        run.summary.num_classes,
        names,
        tuple(run.config.get(option) for option in IMAGE_OPTIONS),
        run.environment.get("data_fingerprint"),
    )


def _data_sets(images: Sequence[Images]) -> list[list[Images]]:
    """Divide images into data sets; those of one place stay together unless their classes differ.

    What is not known to be another data set counts as the same one.
    """
    places: dict[tuple[object, ...], list[Images]] = {}
    for one in images:
        own = one.fingerprint if one.spec == OBJECT else None
        places.setdefault((one.spec, one.num_classes, one.class_names, own), []).append(one)
    sets: list[list[Images]] = []
    # Images whose classes are known first, so that the others join those of the same place.
    for place in sorted(places.values(), key=lambda place: place[0].class_names is None):
        fitting = [
            known for known in sets if not any(a.are_others(b) for a in place for b in known)
        ]
        if fitting:
            max(fitting, key=lambda known: place[0].spec in {one.spec for one in known}).extend(
                place
            )
        else:
            sets.append(place)
    return sets


def _texts(sets: Sequence[Images]) -> list[str]:
    """Text that distinguishes data sets of one name; empty for a single one."""
    if len(sets) == 1:
        return [""]
    places = [Path(one.spec.partition(":")[2]).parts for one in sets]
    lengths = range(2, 1 + max(map(len, places)))
    ends = [["/".join(place[-length:]) for place in places] for length in lengths]
    specs = [one.spec for one in sets]
    counts = [f"{one.num_classes} classes" for one in sets]
    numbered = [f"no. {number}" for number in range(1, 1 + len(sets))]
    choices = (*ends, specs, counts, numbered)
    return next(texts for texts in choices if len(set(texts)) == len(sets))
