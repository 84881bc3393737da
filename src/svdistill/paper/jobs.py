"""Jobs: runs and knowledge stores to make, their inputs, and whether they are finished."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from svdistill.common import RunError
from svdistill.config import CacheConfig, DataConfig, DistillConfig, TrainConfig
from svdistill.data import ImageData
from svdistill.runs import MAY_DIFFER, RunDirectory, read_environment, stored_values
from svdistill.store import MANIFEST_NAME, read_manifest
from svdistill.training import cache_knowledge, distill, load_data, train

Job = TrainConfig | CacheConfig

# Options that may differ between a finished run and the plan: paths, and the use of the machine.
PLACES: Final = (*MAY_DIFFER, "data", "teacher", "knowledge")


def run_job(job: Job) -> None:
    """Train a run, or compute a knowledge store."""
    if isinstance(job, CacheConfig):
        cache_knowledge(job)
    elif isinstance(job, DistillConfig):
        distill(job)
    else:
        train(job)


def needs(job: Job) -> set[str]:
    """The folders of the teacher or store that a job reads."""
    read = (getattr(job, name, "") for name in ("teacher", "knowledge"))
    return {folder for folder in read if folder}


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Select the jobs to do. A knowledge store is needed only while a student of it is unfinished.

    Raises:
        RunError: a folder holds a run with other options.
    """
    runs = [job for job in jobs if not isinstance(job, CacheConfig) and not is_finished(job)]
    read = {getattr(run, "knowledge", "") for run in runs}
    stores = [job for job in jobs if isinstance(job, CacheConfig) and job.output in read]
    missing = [store for store in stores if not _is_complete(store)]
    return [job for job in jobs if job in runs or job in missing]


def delete_unneeded_stores(jobs: Sequence[Job]) -> None:
    """Delete the knowledge stores whose students are all finished."""
    left = {job.output for job in unfinished(jobs)}
    read = {getattr(job, "knowledge", "") for job in jobs if job.output in left}
    for job in jobs:
        if isinstance(job, CacheConfig) and job.output not in read:
            shutil.rmtree(job.output, ignore_errors=True)


def is_finished(job: Job) -> bool:
    """Whether a run is finished.

    Raises:
        RunError: its folder holds a run with other options.
    """
    run = RunDirectory(job.output)
    if not run.config.exists():
        return False
    stored = stored_values(run.config)
    for name, planned in asdict(job.filled()).items():
        if name not in PLACES and stored.get(name, planned) != planned:
            raise RunError(
                str(run.path),
                expected=f"a run with {name} {planned!r}, as planned",
                got=repr(stored[name]),
                remedy="choose another --output, or remove that run",
            )
    return run.summary.exists()


def job_images(jobs: Sequence[Job]) -> dict[str, ImageData]:
    """The images of each job, by its output. What several jobs share is loaded once."""
    options = [one.name for one in fields(DataConfig) if one.name not in ("output", "augmentation")]
    loaded: dict[tuple[object, ...], ImageData] = {}
    images = {}
    for job in jobs:
        selection = tuple(getattr(job, option) for option in options)
        if selection not in loaded:
            loaded[selection] = load_data(job)
        images[job.output] = loaded[selection]
    return images


def require_images(job: Job, fingerprint: str) -> None:
    """Raise `RunError` if a run was started on images with another fingerprint."""
    environment = RunDirectory(job.output).environment
    if not environment.exists():
        return
    if read_environment(environment).get("data_fingerprint") != fingerprint:
        raise RunError(
            job.output,
            expected="a run on the images that --data names",
            got="one on others",
            remedy="choose another --output, or the data that it was made with",
        )


def _is_complete(store: CacheConfig) -> bool:
    manifest = Path(store.output) / MANIFEST_NAME
    return manifest.exists() and read_manifest(manifest).complete
