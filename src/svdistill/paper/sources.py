"""Whether runs and knowledge stores were made from the teachers and stores that are planned."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from svdistill.common import RunError, SVDistillError, require_unlocked
from svdistill.config import CacheConfig
from svdistill.networks import is_zoo
from svdistill.runs import RunDirectory, load_student, network_digest, stored_values, weights_file
from svdistill.store import IN_BF16, MANIFEST_NAME, Manifest, read_manifest

# Fields of a manifest that may differ neither from the plan nor between the stores of one student.
VIEWS: Final = ("views", "views_seed")
KNOWN: Final = ("teacher_sha256", "data_fingerprint", "augmentation", *VIEWS)


def other_sources(planned: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[str]:
    """The names of the options `teacher` and `knowledge` that are known to mean something else.

    Both are the options of a run. What has moved may be the same, so only what lies in both places
    is compared.
    """
    for name, is_other in (("teacher", _is_other_teacher), ("knowledge", _is_other_store)):
        one, other = planned.get(name) or "", made.get(name) or ""
        if bool(one) != bool(other) or (one != other and is_other(one, other)):
            yield name


def _is_other_teacher(planned: str, made: str) -> bool:
    if not (Path(planned).exists() and Path(made).exists()):
        return is_zoo(planned) or is_zoo(made)
    one, other = weights_file(Path(planned)), weights_file(Path(made))
    return one.exists() and other.exists() and not filecmp.cmp(one, other, shallow=False)


def _is_other_store(planned: str, made: str) -> bool:
    files = [Path(store) / MANIFEST_NAME for store in (planned, made)]
    if not all(file.exists() for file in files):
        return False
    one, other = map(read_manifest, files)
    return any(getattr(one, name) != getattr(other, name) for name in KNOWN)


def require_planned_store(job: CacheConfig, found: Manifest) -> None:
    """Raise `RunError` if a finished store has other views than planned, or another teacher."""
    made = {name: getattr(found, name) for name in VIEWS}
    made["teacher"] = found.teacher.removesuffix(IN_BF16)
    planned = {name: getattr(job, name) for name in made}
    names = [name for name in VIEWS if planned[name] != made[name]]
    for name in (*names, *other_sources(planned, made)):
        raise RunError(
            job.output,
            expected=f"a knowledge store with {name} {planned[name]!r}, as planned",
            got=repr(made[name]),
            remedy="choose another --output, or remove that store and the runs that read it",
        )


def is_of_present_teacher(job: CacheConfig, found: Manifest) -> bool:
    """Whether a store's teacher has the weights that now lie in the teacher's run, if any do."""
    if not RunDirectory(job.teacher).student.exists():
        return True
    try:
        teacher = load_student(job.teacher)
    except SVDistillError:  # damaged, or of the user's own code: making the store tells it
        return True
    return network_digest(teacher) == found.teacher_sha256


def is_in_use(store: str) -> bool:
    """Whether a process writes a store, or an unfinished run beside it reads it.

    Runs of one root lie beside its folder of stores, as `plan` places both.
    """
    place = Path(store).resolve()
    try:
        require_unlocked(place)
    except RunError:
        return True
    for config in place.parent.parent.rglob("config.yaml"):
        try:
            read = stored_values(config).get("knowledge")
        except SVDistillError:  # not a run's, or damaged
            continue
        if (
            read
            and Path(read).resolve() == place
            and not RunDirectory(config.parent).summary.exists()
        ):
            return True
    return False
