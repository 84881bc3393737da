"""Which stages of a teacher and its student a run compared, and these as a table."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Final

import torch

from svdistill.knowledge_store.manifest import read_manifest
from svdistill.knowledge_store.shards import MANIFEST_NAME
from svdistill.losses.registry import is_imported
from svdistill.report.html_table import Cell, Heading, HTMLTable
from svdistill.report.rebuilding import Missing, build_teacher, card_of, student_after
from svdistill.report.runs import Run
from svdistill.taps import PairedTap, PairedTaps, Stage, TapPairs
from svdistill.training.assembly import whole_loss
from svdistill.training.config import DistillConfig
from svdistill.training.tapping import NO_TAPS, own_taps, paired_taps, taps_of_store

HEADINGS: Final = ("teacher", "shape", "student", "shape", "adapter", "why these two")


def run_pairs(run: Run, teacher: str | Path | None = None) -> PairedTaps | TapPairs:
    """The taps that a run compared, found as it found them.

    Args:
        run: the student's.
        teacher: its teacher, where the run does not name one, or one that has been moved.

    Returns:
        The pairs. Where no teacher can be built, the student's taps alone if they are known; none
        where the loss reads none.

    Raises:
        Missing: the student cannot be built, or its taps cannot be known.
        SVDistillError: damaged weights, or a missing library.
    """
    config = _config(run)
    student = student_after(run)
    images = torch.zeros(2, 3, *[card_of(run).image_size] * 2)  # nothing but their shape counts
    store = Path(config.knowledge) / MANIFEST_NAME
    if config.knowledge and store.exists():
        return taps_of_store(config, read_manifest(store), student, images)
    alone = own_taps(student, config.student_taps)
    if not whole_loss(config).needs_taps and not alone:
        return NO_TAPS
    try:
        taught_by = build_teacher(run, teacher)
        # A store's taps were not found by pairing, and it is gone.
        if config.knowledge and not own_taps(taught_by, config.teacher_taps):
            raise Missing(f"the knowledge store of {run.path}, {config.knowledge}, is not there")
        return paired_taps(config, taught_by, student, images)
    except Missing:
        if not alone:
            raise
        return TapPairs(tuple(config.teacher_taps), alone)


def chosen_pairs(run: Run) -> TapPairs:
    """The taps that a run's configuration names, if any: no network is needed for these."""
    chosen = (run.config.get("teacher_taps", ()), run.config.get("student_taps", ()))
    return TapPairs(*map(tuple, chosen))


def compares_channels(run: Run) -> bool:
    """Whether any of a run's losses compares a student's channels with its teacher's."""
    return whole_loss(_config(run)).compares_channels


def pairs_table(run: Run, pairs: PairedTaps | TapPairs) -> HTMLTable | None:
    """A row for each pair, with their shapes where these are known; None without any."""
    title = f"Taps of {run.pair}"
    if not isinstance(pairs, PairedTaps):
        known = {name: paths for name, paths in pairs._asdict().items() if paths}
        rows = tuple(tuple(map(Cell, row)) for row in zip(*known.values(), strict=True))
        caption = f"Modules of {' and '.join(known)} that were compared"
        return HTMLTable(title, caption, _headings(*known), rows) if rows else None
    adapted = compares_channels(run) and any(row.needs_adapter for row in pairs.rows)
    left_out = () if adapted else ("adapter",)
    return HTMLTable(
        title=title,
        caption="Stages that were compared, with their outputs' shapes" + _note(pairs, adapted),
        headings=_headings(*(name for name in HEADINGS if name not in left_out)),
        rows=tuple(_row(row, adapted) for row in pairs.rows),
    )


def _config(run: Run) -> DistillConfig:
    """A run's configuration, of whatever version.

    Raises:
        Missing: its loss is of the user's own code, which a report does not run.
    """
    loss = str(run.config["loss"])
    if not is_imported(loss):
        raise Missing(f"the loss of {run.path}, {loss}, is not svdistill's: no other code is run")
    known = {field.name for field in fields(DistillConfig)}
    return DistillConfig(**{name: run.config[name] for name in known & run.config.keys()})


def _headings(*texts: str) -> tuple[Heading, ...]:
    return tuple(Heading(text, numeric=False) for text in texts)


def _note(pairs: PairedTaps, adapted: bool) -> str:
    if adapted:
        return (
            "; adapters bring the student's channels to the teacher's, by a 1x1 projection that "
            "learnt with the student and is no part of it"
        )
    if any(row.needs_adapter for row in pairs.rows):
        return "; the loss compares no channels, so these may differ"
    return ""


def _row(row: PairedTap, adapted: bool) -> tuple[Cell, ...]:
    adapter = f"{row.student.channels} → {row.teacher.channels}" if row.needs_adapter else "none"
    texts = (
        *(row.teacher.path, _shape(row.teacher), row.student.path, _shape(row.student)),
        *([adapter] if adapted else []),
        row.why,
    )
    return tuple(map(Cell, texts))


def _shape(stage: Stage) -> str:
    return "x".join(map(str, stage.shape))
