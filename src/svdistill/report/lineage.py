"""Which run trained another's teacher, and what network that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svdistill.errors import SVDistillError
from svdistill.knowledge_store.manifest import read_manifest
from svdistill.knowledge_store.shards import MANIFEST_NAME
from svdistill.networks import is_code, is_zoo
from svdistill.report.runs import Run
from svdistill.training.config import OBJECT
from svdistill.training.run_directory import read_summary
from svdistill.training.weights import read_card, weights_file


def named_teacher(run: Run) -> str:
    """What a run calls its teacher, or else the knowledge store that it learnt from.

    Empty where neither says.
    """
    if not run.config.get("knowledge"):
        return str(run.config.get("teacher") or "")
    try:
        return read_manifest(Path(run.config["knowledge"]) / MANIFEST_NAME).teacher
    except SVDistillError:  # it is gone, or damaged
        return ""


def teacher_among(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run that trained a student's teacher; None where it is not among these runs.

    A teacher that was moved is known by its directory's name, unless several have it.
    """
    named = named_teacher(run)
    if not named:
        return None
    others = [other for other in runs if other.path != run.path]
    path = Path(named)
    if path.exists():
        same = [other for other in others if other.path.resolve() == path.resolve()]
    else:
        same = [other for other in others if other.path.name == path.name]
    return same[0] if len(same) == 1 else None


def teacher_network(run: Run) -> str:
    """The name of a teacher's network, as far as the run leads to it; else nothing.

    One that was given as a Python object has no name.
    """
    named = named_teacher(run)
    if is_zoo(named) or is_code(named):
        return named
    file = weights_file(Path(named))
    try:
        if named and file.exists():
            card = read_card(file)
            name = str(run.config.get("teacher_network") or "") if card is None else card.network
        else:
            name = read_summary(named).network
    except SVDistillError:  # it is nowhere, or damaged
        return ""
    return "" if name == OBJECT else name
