"""The section on taps: which were compared, their spectra and distillation feature vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from svdistill.common import SVDistillError, Table, text_table
from svdistill.config import DistillConfig
from svdistill.losses import is_imported, reads
from svdistill.report.comparison import PairComparison
from svdistill.report.feature_figures import maps_figure, spectra_figure
from svdistill.report.feature_maps import Analysis, analyse, tapped_maps
from svdistill.report.figure import Figure, Section
from svdistill.report.networks import Missing, build_teacher, card_of, student_after
from svdistill.report.runs import Run, named_teacher, teacher_among
from svdistill.store import MANIFEST_NAME, read_manifest
from svdistill.taps import PairedTap, PairedTaps, Stage, TapPairs
from svdistill.training import NO_TAPS, own_taps, paired_taps, taps_of_store, whole_loss


def spectra_section(pairs: Sequence[PairComparison], data: str | None) -> list[Section]:
    """Taps, their spectra and DFVs before and after, of one run for each comparison.

    That is a run of the most accurate method. Runs with weights whose teacher is available come
    first, then methods that compare singular vectors.

    Args:
        pairs: each on one pair of networks and one data set.
        data: where the images are now, if runs do not find theirs.

    Returns:
        A section for each comparison, with what can be shown and the reason for what cannot.
    """
    return [_section(pair, data) for pair in pairs]


def _section(comparison: PairComparison, data: str | None) -> Section:
    ranked = _ranked(comparison)
    if not ranked:
        return Section(comparison.title, missing=("Not drawn: no student was distilled.",))
    candidates = [(_at(run, data), _teacher(run, comparison)) for run in ranked]
    run, teacher = min(candidates, key=lambda pair: (pair[0].weights is None, pair[1] is None))
    try:
        pairs = run_pairs(run, teacher)
    except (Missing, SVDistillError) as reason:  # such as damaged weights
        table = pairs_table(run, chosen_pairs(run))
        return Section(comparison.title, missing=(f"Not shown: {reason}.",), table=table)
    try:
        figures, missing = _figures(run, pairs, teacher)
    except (Missing, SVDistillError) as reason:  # such as images of other classes
        figures, missing = (), (f"Spectra are not drawn: {reason}.",)
    return Section(comparison.title, figures, missing, pairs_table(run, pairs))


def _figures(
    run: Run, pairs: PairedTaps | TapPairs, teacher: Path | None
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """The figures that can be drawn, and a sentence for each that cannot."""
    paths = pairs.pairs if isinstance(pairs, PairedTaps) else pairs
    if not paths.student:
        return (), ("No feature maps were tapped: the loss reads logits alone.",)
    maps = tapped_maps(run, paths, teacher)
    analysis = analyse(run, maps)
    drawn = (spectra_figure(analysis), maps_figure(analysis))
    reason = _without_maps(analysis, compares_channels(run)) if maps.teacher else ""
    return tuple(filter(None, drawn)), (*maps.missing, *filter(None, [reason]))


def _without_maps(analysis: Analysis, compares: bool) -> str:
    """Why some neighbouring taps have no DFVs drawn; empty if all have."""
    if len(analysis.maps) >= len(analysis.spectra) - 1:
        return ""
    some = "Some" if analysis.maps else "No"
    adapters = " The adapters through which they were compared are not kept." if compares else ""
    return (
        f"{some} distillation feature vectors are drawn: they relate channels, and teacher and "
        f"student have different numbers of channels.{adapters}"
    )


def _ranked(comparison: PairComparison) -> list[Run]:
    """The runs of distilled students: first those of SVD, the most accurate method first."""
    methods = sorted(
        comparison.distilled,
        key=lambda method: (not reads(method.loss, "num_vectors"), -method.accuracy),
    )
    return [run for method in methods for run in method.runs]


def _teacher(run: Run, comparison: PairComparison) -> Path | None:
    """The path of a run's teacher, if it is known.

    A run from a knowledge store may not name its teacher, and a teacher may have been moved.
    """
    named = named_teacher(run)
    if named and Path(named).exists():
        return Path(named)
    teachers = [teacher for row in comparison.teachers for teacher in row.runs]
    among = teacher_among(run, teachers)
    if among is None and not named and len(teachers) == 1:
        among = teachers[0]
    return None if among is None else among.path


def _at(run: Run, data: str | None) -> Run:
    """The run, with the place where its images are now."""
    place = str(run.config["data"]).partition(":")[2]
    if data is None or not place or Path(place).expanduser().exists():
        return run
    return replace(run, config={**run.config, "data": data})


def run_pairs(run: Run, teacher: str | Path | None = None) -> PairedTaps | TapPairs:
    """The taps that a run compared, paired as in its training.

    Args:
        run: the student's.
        teacher: where the teacher is, if the run does not name it or it was moved.

    Returns:
        The pairs. If no teacher can be built, the student's taps alone, if they are known; no taps
        if the loss reads none.

    Raises:
        Missing: the student cannot be built, or its taps are unknown.
        SVDistillError: damaged weights, or a missing library.
    """
    config = _config(run)
    student = student_after(run)
    images = torch.zeros(2, 3, *[card_of(run).image_size] * 2)  # only their shape matters
    store = Path(config.knowledge) / MANIFEST_NAME
    if config.knowledge and store.exists():
        return taps_of_store(config, read_manifest(store), student, images)
    alone = own_taps(student, config.student_taps)
    if not whole_loss(config).needs_taps and not alone:
        return NO_TAPS
    try:
        network = build_teacher(run, teacher)
        # Its taps come from the store, not from pairing.
        if config.knowledge and not own_taps(network, config.teacher_taps):
            raise Missing(f"the knowledge store of {run.path}, {config.knowledge}, is not there")
        return paired_taps(config, network, student, images)
    except Missing:
        if not alone:
            raise
        return TapPairs(tuple(config.teacher_taps), alone)


def chosen_pairs(run: Run) -> TapPairs:
    """The taps that a run's configuration names, if any; this needs no network."""
    chosen = (run.config.get("teacher_taps", ()), run.config.get("student_taps", ()))
    return TapPairs(*map(tuple, chosen))


def compares_channels(run: Run) -> bool:
    """Whether any of a run's losses compares a student's channels with its teacher's."""
    return whole_loss(_config(run)).compares_channels


def pairs_table(run: Run, pairs: PairedTaps | TapPairs) -> Table | None:
    """A row for each pair of taps, with their shapes if they are known; None without any."""
    title = f"Taps of {run.pair}"
    if not isinstance(pairs, PairedTaps):
        known = {name: paths for name, paths in pairs._asdict().items() if paths}
        if not known:
            return None
        table = text_table(title, tuple(known), list(zip(*known.values(), strict=True)))
        return replace(table, caption=f"Modules of {' and '.join(known)} that were compared")
    adapted = compares_channels(run) and any(row.needs_adapter for row in pairs.rows)
    adapter = ("adapter",) if adapted else ()
    headings = ("teacher", "shape", "student", "shape", *adapter, "why these two")
    table = text_table(title, headings, [_pair_texts(row, adapted) for row in pairs.rows])
    caption = "Stages that were compared, with their outputs' shapes"
    return replace(table, caption=caption + _adapter_note(pairs, adapted))


def _config(run: Run) -> DistillConfig:
    """A run's configuration, without fields that this version does not know.

    Raises:
        Missing: its loss is the user's own code, which a report does not run.
    """
    loss = str(run.config["loss"])
    if not is_imported(loss):
        raise Missing(
            f"the loss of {run.path}, {loss}, is code of your own, which a report does not run"
        )
    known = {field.name for field in fields(DistillConfig)}
    return DistillConfig(**{name: run.config[name] for name in known & run.config.keys()})


def _adapter_note(pairs: PairedTaps, adapted: bool) -> str:
    if adapted:
        return (
            "; adapters map the student's channels to the teacher's, by a 1x1 projection that was "
            "trained with the student and is not part of it"
        )
    if any(row.needs_adapter for row in pairs.rows):
        return "; the loss compares no channels, so these may differ"
    return ""


def _pair_texts(row: PairedTap, adapted: bool) -> tuple[str, ...]:
    adapter = f"{row.student.channels} → {row.teacher.channels}" if row.needs_adapter else "none"
    return (
        *(row.teacher.path, _shape(row.teacher), row.student.path, _shape(row.student)),
        *([adapter] if adapted else []),
        row.why,
    )


def _shape(stage: Stage) -> str:
    return "x".join(map(str, stage.shape))
