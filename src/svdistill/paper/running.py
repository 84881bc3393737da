"""Run jobs in several processes, each job once the jobs that it needs are finished."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from typing import Final

import torch

from svdistill.common import (
    Stopped,
    SVDistillError,
    TrainingError,
    available_cores,
    keep_memory,
)
from svdistill.paper.jobs import Job, needs, run_job
from svdistill.training import choose_device

LONGEST_WAIT: Final = 3600.0

PATIENCE: Final = 20.0  # seconds until all processes have finished their step and saved


GPU_JOBS: Final = 3


def default_count(device: str) -> int:
    """Jobs at a time: one for each core, or three on a GPU."""
    return GPU_JOBS if choose_device(device).type == "cuda" else available_cores()


@dataclass(frozen=True)
class JobProcesses:
    """How jobs are run.

    Attributes:
        count: jobs at a time.
        threads: CPU threads per job.
        keep_memory: whether a process keeps freed memory, see `svdistill.keep_memory`.
    """

    count: int
    threads: int = 1
    keep_memory: bool = True


@dataclass(frozen=True)
class JobResult:
    """A job that ended, and why it failed; None if it is finished."""

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
    """Run jobs; jobs that were stopped before resume.

    Args:
        jobs: in order of priority; a job waits for the jobs that it needs.
        processes: how many at a time, and their threads.
        ended: called with the result of each job that ends.
        max_seconds: after this time the running jobs save their state and stop.

    Returns:
        The jobs that are left: stopped, not begun, or in need of one that failed.
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
    """A process that runs one job after the other."""

    def __init__(self, processes: JobProcesses) -> None:
        context = get_context("spawn")  # a forked child could not use the GPU
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(processes, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, job: Job) -> None:
        """Start a job."""
        with contextlib.suppress(ConnectionError):  # of a dead process: `failure` reports it
            self.connection.send(job)

    def failure(self) -> str | None:
        """Why the job that ended failed; None if it is finished."""
        try:
            failure: str | None = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return f"its process ended with status {self.process.exitcode}"
        return failure

    def wait_until_saved(self, patience: float) -> None:
        """Wait until the terminated process has saved its job, at most until this time."""
        self.connection.poll(max(patience - time.monotonic(), 0.0))


def _answered(busy: dict[_Worker, Job], deadline: float) -> list[_Worker]:
    """The workers whose job or process has ended: at least one, or none at the deadline."""
    timeout = min(max(deadline - time.monotonic(), 0.0), LONGEST_WAIT)
    ready = connection.wait([worker.connection for worker in busy], timeout)
    return [worker for worker in busy if worker.connection in ready]


def _work(processes: JobProcesses, parent: connection.Connection) -> None:
    for name in ("SIGINT", "SIGHUP"):  # the parent receives these too, and stops this process
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore", category=FutureWarning)
    torch.set_num_threads(processes.threads)
    if processes.keep_memory:
        keep_memory()
    while True:
        try:
            job = parent.recv()
        except EOFError:
            return
        try:
            job.resume = True
            run_job(job)
        except (SVDistillError, Stopped) as error:
            parent.send(str(error))
        except Exception as error:
            parent.send(f"{type(error).__name__}: {error}")
        else:
            parent.send(None)
        torch.cuda.empty_cache()  # other processes share the device


def _end_with_parent() -> None:
    """Exit when the parent dies: a second command would find a run in use otherwise."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
