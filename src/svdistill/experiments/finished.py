"""Which of the planned runs are there already."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from svdistill.errors import RunError
from svdistill.experiments.plan import Task
from svdistill.knowledge_store.manifest import read_manifest
from svdistill.knowledge_store.shards import MANIFEST_NAME
from svdistill.training import CacheConfig
from svdistill.training.run_directory import RunDirectory, read_environment
from svdistill.training.stored_config import MAY_DIFFER, stored_values

# Where things lie, and how a machine is used: the same run may have been made elsewhere.
PLACES: Final = (*MAY_DIFFER, "data", "teacher", "knowledge")


def unfinished(tasks: Sequence[Task]) -> list[Task]:
    """The tasks that are still to be done.

    A knowledge store is to be done only where one of its students is.

    Raises:
        RunError: a run of other options lies in the place of one of them.
    """
    left = [task for task in tasks if not isinstance(task, CacheConfig) and not is_finished(task)]
    wanted = {getattr(task, "knowledge", "") for task in left}
    stores = [task for task in tasks if isinstance(task, CacheConfig) and task.output in wanted]
    missing = [task for task in stores if not _is_whole(task)]
    return [task for task in tasks if task in left or task in missing]


def delete_unneeded_stores(tasks: Sequence[Task]) -> None:
    """Delete the knowledge stores of these tasks whose students are all finished."""
    left = {task.output for task in unfinished(tasks)}
    wanted = {getattr(task, "knowledge", "") for task in tasks if task.output in left}
    for task in tasks:
        if isinstance(task, CacheConfig) and task.output not in wanted:
            shutil.rmtree(task.output, ignore_errors=True)


def is_finished(task: Task) -> bool:
    """Whether a run is finished.

    Raises:
        RunError: a run of other options lies in its place.
    """
    run = RunDirectory(task.output)
    if not run.config.exists():
        return False
    stored = stored_values(run.config)
    for name, asked in asdict(task).items():
        if name not in PLACES and stored.get(name, asked) != asked:
            raise RunError(
                str(run.path),
                expected=f"a run with {name} {asked!r}, as the preset has it",
                got=repr(stored[name]),
                remedy="choose another --output, or remove that run",
            )
    return run.summary.exists()


def require_images(task: Task, fingerprint: str) -> None:
    """Raise `RunError` if a run was begun with other images than those of this fingerprint."""
    environment = RunDirectory(task.output).environment
    if (
        environment.exists()
        and read_environment(environment).get("data_fingerprint") != fingerprint
    ):
        raise RunError(
            task.output,
            expected="a run on the images that --data names",
            got="one on others",
            remedy="choose another --output, or the data that it was made with",
        )


def _is_whole(store: CacheConfig) -> bool:
    manifest = Path(store.output) / MANIFEST_NAME
    return manifest.exists() and read_manifest(manifest).complete
