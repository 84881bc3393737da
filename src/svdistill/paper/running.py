"""Make many runs: several at a time, each in a process of its own, each only when it can begin."""

from __future__ import annotations

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

from svdistill.common import Stopped, SVDistillError, keep_memory
from svdistill.config import CacheConfig, DistillConfig
from svdistill.paper.plan import Task, needs
from svdistill.training import cache_knowledge, distill, train

LONGEST_WAIT: Final = 3600.0

PATIENCE: Final = 20.0  # seconds for a step and a checkpoint, of all runs together


@dataclass(frozen=True)
class Outcome:
    """What became of a run: why it failed, or None if it is finished."""

    task: Task
    failure: str | None


def run_all(
    tasks: Sequence[Task],
    *,
    jobs: int,
    threads: int,
    max_seconds: float | None,
    ended: Callable[[Outcome], None],
) -> list[Task]:
    """Make runs; what was begun before goes on where it stopped.

    Args:
        tasks: in the order in which they are wanted; a run waits for those that it needs.
        jobs: how many at a time.
        threads: of the CPU, for each.
        max_seconds: after so many seconds what is running saves where it is, and is stopped.
        ended: is told of every run that ends.

    Returns:
        The tasks that are left: stopped, not begun, or in need of one that failed.
    """
    deadline = time.monotonic() + (float("inf") if max_seconds is None else max_seconds)
    waiting, running = list(tasks), list[_Worker]()
    failed: set[str] = set()
    try:
        while time.monotonic() < deadline:
            unfinished = {task.output for task in waiting} | failed
            unfinished |= {worker.task.output for worker in running}
            ready = [task for task in waiting if not needs(task) & unfinished]
            for task in ready[: jobs - len(running)]:
                waiting.remove(task)
                running.append(_Worker(task, threads))
            if not running:
                break
            for worker in _first_ended(running, deadline):
                running.remove(worker)
                outcome = worker.outcome()
                if outcome.failure is not None:
                    failed.add(outcome.task.output)
                ended(outcome)
    finally:
        for worker in running:
            worker.process.terminate()
        patience = time.monotonic() + PATIENCE
        for worker in running:
            worker.stop(patience)
    return [*(worker.task for worker in running), *waiting]


class _Worker:
    """One run in a process of its own."""

    def __init__(self, task: Task, threads: int) -> None:
        self.task = task
        context = get_context("spawn")  # a forked child could not use the GPU
        self._answer, answer = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(task, threads, answer), daemon=True)
        self.process.start()
        answer.close()

    def outcome(self) -> Outcome:
        """What the ended process said."""
        self.process.join()
        try:
            return Outcome(self.task, self._answer.recv())
        except EOFError:
            return Outcome(self.task, f"its process ended with status {self.process.exitcode}")

    def stop(self, patience: float) -> None:
        """Let the process save where it is until then, and end it. Whatever it wrote is whole."""
        self._answer.poll(max(patience - time.monotonic(), 0.0))  # it answers when all is saved
        self.process.kill()
        self.process.join()


def _first_ended(running: list[_Worker], deadline: float) -> list[_Worker]:
    """The workers whose processes have ended: at least one, unless the time is up before."""
    timeout = min(max(deadline - time.monotonic(), 0.0), LONGEST_WAIT)
    ended = connection.wait([worker.process.sentinel for worker in running], timeout)
    return [worker for worker in running if worker.process.sentinel in ended]


def _work(task: Task, threads: int, answer: connection.Connection) -> None:
    for name in ("SIGINT", "SIGHUP"):  # the parent gets these too, and stops us
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore", category=FutureWarning)
    torch.set_num_threads(threads)
    keep_memory()
    try:
        task.resume = True
        run_task(task)
    except (SVDistillError, Stopped) as error:
        answer.send(str(error))
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")
    else:
        answer.send(None)


def _end_with_parent() -> None:
    """Leave no run behind that a second command would meet in its directory."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def run_task(task: Task) -> None:
    """Make what a configuration describes: a run, or a knowledge store."""
    if isinstance(task, CacheConfig):
        cache_knowledge(task)
    elif isinstance(task, DistillConfig):
        distill(task)
    else:
        train(task)
