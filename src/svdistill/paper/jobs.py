"""Jobs: runs and knowledge stores, made in several processes as soon as their inputs exist."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Final

import torch

from svdistill.common import (
    DataWarning,
    RunError,
    Stopped,
    SVDistillError,
    TrainingError,
    available_cores,
    keep_memory,
)
from svdistill.config import CacheConfig, DataConfig, DistillConfig, TrainConfig
from svdistill.data import ImageData
from svdistill.paper.sources import (
    is_in_use,
    is_of_present_teacher,
    other_sources,
    require_planned_store,
)
from svdistill.runs import MAY_DIFFER, RunDirectory, differing, read_config, read_environment
from svdistill.store import MANIFEST_NAME, Manifest, read_manifest
from svdistill.training import cache_knowledge, choose_device, distill, load_data, train

Job = TrainConfig | CacheConfig

# Options in which a finished run may differ from the planned job: paths, and how the machine is
# used.
PLACES: Final = (*MAY_DIFFER, "data", "teacher", "knowledge")

# Options that a run with the precision `auto` chooses for itself.
CHOSEN: Final = ("precision", "teacher_precision")


def run_job(job: Job) -> None:
    """Do a job in this process: train a run, or compute a knowledge store."""
    if isinstance(job, CacheConfig):
        cache_knowledge(job)
    elif isinstance(job, DistillConfig):
        distill(job)
    else:
        train(job)


def needs(job: Job) -> set[str]:
    """The folders of other jobs that a job reads: its teacher's, or its knowledge store's."""
    read = (getattr(job, name, "") for name in ("teacher", "knowledge"))
    return {folder for folder in read if folder}


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Select the jobs that are left to do.

    A knowledge store is made only if a student that reads it is unfinished. It is checked again if
    its teacher is trained again, or was.

    Raises:
        RunError: a job's folder holds a run with other options, or a store of other views or of
            another teacher.
    """
    runs = [job for job in jobs if not isinstance(job, CacheConfig) and not is_finished(job)]
    read = {getattr(run, "knowledge", "") for run in runs}
    trained = {run.output for run in runs}
    left = [run.output for run in runs]
    for job in jobs:
        if isinstance(job, CacheConfig):
            found = _complete(job)
            if found is not None:
                require_planned_store(job, found)
            if job.output in read and (
                found is None or job.teacher in trained or not is_of_present_teacher(job, found)
            ):
                left.append(job.output)
    return [job for job in jobs if job.output in left]


def delete_unneeded_stores(jobs: Sequence[Job]) -> None:
    """Delete the knowledge stores that no unfinished job reads, nor a run of another command."""
    left = {job.output for job in unfinished(jobs)}
    read = {getattr(job, "knowledge", "") for job in jobs if job.output in left}
    for job in jobs:
        if isinstance(job, CacheConfig) and job.output not in read and not is_in_use(job.output):
            shutil.rmtree(job.output, ignore_errors=True)


def is_finished(job: Job) -> bool:
    """Whether the run of a job is finished.

    Raises:
        RunError: the job's folder holds a run with other options.
    """
    run = RunDirectory(job.output)
    if not run.config.exists():
        return False
    planned = asdict(job.filled())
    kept = asdict(read_config(run.config).filled())
    asked = {name: planned[name] or planned["precision"] for name in CHOSEN if name in planned}
    planned |= {name: kept.get(name) for name, value in asked.items() if value == "auto"}
    # The loss first: if one of the two is a student alone, its other options say less.
    others = sorted(differing(planned, kept, PLACES), key=lambda name: name != "loss")
    for name in (*others, *other_sources(planned, kept)):
        raise RunError(
            str(run.path),
            expected=f"a run with {name} {planned.get(name)!r}, as planned",
            got=repr(kept.get(name)),
            remedy="choose another --output, or remove that run",
        )
    return run.summary.exists()


def job_images(jobs: Sequence[Job]) -> dict[str, ImageData]:
    """A dictionary from each job's output folder to its images; shared images are loaded once."""
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
    """Raise `RunError` if the job's run was started earlier on images with another fingerprint."""
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


def _complete(store: CacheConfig) -> Manifest | None:
    """The manifest of a store that is complete; None if it is not."""
    file = Path(store.output) / MANIFEST_NAME
    found = read_manifest(file) if file.exists() else None
    return found if found is not None and found.complete else None


LONGEST_WAIT: Final = 3600.0

PATIENCE: Final = 20.0  # seconds that stopped processes have to finish their step and save

GPU_JOBS: Final = 3


def default_count(device: str) -> int:
    """The default number of jobs at a time: one for each core, or three on a GPU."""
    return GPU_JOBS if choose_device(device).type == "cuda" else available_cores()


@dataclass(frozen=True)
class JobProcesses:
    """The processes in which jobs are run.

    Attributes:
        count: number of processes, and so of jobs at a time.
        threads: CPU threads of each process.
        keep_memory: whether the processes keep freed memory, see `svdistill.keep_memory`.
    """

    count: int
    threads: int = 1
    keep_memory: bool = True


@dataclass(frozen=True)
class JobResult:
    """A job that ended; `failure` says why it failed, and is None if the job is finished."""

    job: Job
    failure: str | None

    def require_finished(self, remedy: str) -> None:
        """Raise `TrainingError` if the job failed."""
        if self.failure is not None:
            raise TrainingError(
                self.job.output, expected="a run that finishes", got=self.failure, remedy=remedy
            )


def run_jobs(
    jobs: Sequence[Job],
    processes: JobProcesses,
    *,
    ended: Callable[[JobResult], None],
    max_seconds: float | None = None,
) -> list[Job]:
    """Run jobs in several processes; jobs that were stopped earlier resume.

    Args:
        jobs: the jobs in order of priority; a job waits for the jobs whose output it reads.
        processes: the number of processes, and their threads.
        ended: called with the result of each job that ends.
        max_seconds: after this time the running jobs save their state and stop; None for no limit.

    Returns:
        The jobs that are left: they were stopped or not begun, or read the output of a failed job.
    """
    deadline = time.monotonic() + (float("inf") if max_seconds is None else max_seconds)
    waiting, idle, busy = list(jobs), list[_Worker](), dict[_Worker, Job]()
    failed: set[str] = set()
    try:
        while time.monotonic() < deadline:
            unfinished = {job.output for job in (*waiting, *busy.values())} | failed
            ready = [job for job in waiting if not needs(job) & unfinished]
            for job in ready[: processes.count - len(busy)]:
                waiting.remove(job)
                worker = idle.pop() if idle else _Worker(processes)
                busy[worker] = job
                worker.begin(job)
            if not busy:
                break
            for worker in _answered(busy, deadline):
                result = JobResult(busy.pop(worker), worker.failure())
                if worker.process.is_alive():
                    idle.append(worker)
                if result.failure is not None:
                    failed.add(result.job.output)
                ended(result)
    finally:
        for worker in (*busy, *idle):
            worker.process.terminate()
        patience = time.monotonic() + PATIENCE
        for worker in busy:
            worker.wait_until_saved(patience)
        for worker in (*busy, *idle):
            worker.process.kill()
            worker.process.join()
    return [*busy.values(), *waiting]


class _Worker:
    """A child process that runs one job after another."""

    def __init__(self, processes: JobProcesses) -> None:
        context = get_context("spawn")  # a forked child could not use the GPU
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(processes, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, job: Job) -> None:
        """Start a job in the process."""
        with contextlib.suppress(ConnectionError):  # if the process is dead, `failure` reports it
            self.connection.send(job)

    def failure(self) -> str | None:
        """Receive the result of the job that ended: why it failed, or None if it is finished."""
        try:
            failure: str | None = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return f"its process ended with status {self.process.exitcode}"
        return failure

    def wait_until_saved(self, patience: float) -> None:
        """Wait until the terminated process has saved its job, or until the time `patience`."""
        self.connection.poll(max(patience - time.monotonic(), 0.0))


def _answered(busy: dict[_Worker, Job], deadline: float) -> list[_Worker]:
    """Wait for workers whose job or process ends, and return them; none if time runs out first."""
    timeout = min(max(deadline - time.monotonic(), 0.0), LONGEST_WAIT)
    ready = connection.wait([worker.connection for worker in busy], timeout)
    return [worker for worker in busy if worker.connection in ready]


def _work(processes: JobProcesses, parent: connection.Connection) -> None:
    for name in ("SIGINT", "SIGHUP"):  # the parent receives the signal too, and stops this process
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for category in (FutureWarning, DataWarning):  # the parent warns in `job_images`
        warnings.simplefilter("ignore", category=category)
    torch.set_num_threads(processes.threads)
    if processes.keep_memory:
        keep_memory()
    while True:
        try:
            job = parent.recv()
        except EOFError:
            return
        failure = None
        try:
            job.resume = True
            run_job(job)
        except (SVDistillError, Stopped) as error:
            failure = str(error)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        with contextlib.suppress(ConnectionError):  # if the parent is dead, `recv` ends the loop
            parent.send(failure)
        torch.cuda.empty_cache()  # other processes share the device


def _end_with_parent() -> None:
    """Exit when the parent dies: otherwise a later command would find the run still in use."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
