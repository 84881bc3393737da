"""The state of an unfinished epoch for checkpoints, and the record of a finished one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from svdistill.data import global_states, seed_global_states, set_global_states
from svdistill.linalg import Convergence
from svdistill.parallel import gather_values, rank, size
from svdistill.runs import EpochRecord
from svdistill.training.metrics import EpochMeter, Evaluation
from svdistill.training.progress import LoadingTime
from svdistill.training.step import Step


class EpochState:
    """State of an epoch except weights and optimizer: steps, means, timing and random states.

    It includes the state of `step` and the counts of decompositions in `watch`, which it resets.
    `seed` seeds torch, NumPy and Python when the epoch begins.

    Attributes:
        steps: number of steps done so far.
        meter: means of losses, accuracy and gradient norms so far.
        loading: time spent waiting for images.
    """

    def __init__(
        self,
        step: Step,
        watch: Convergence,
        device: torch.device,
        *,
        total_steps: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.step = step
        self.watch = watch
        self.device = device
        self.total_steps = total_steps
        self.learning_rate = learning_rate
        self.seed = seed
        self.steps = 0
        self.meter = EpochMeter(device)
        self.loading = LoadingTime(device)
        self._random: Mapping[str, Any] | None = None
        self._began = time.perf_counter()
        watch.reset()

    def seconds(self) -> float:
        """Seconds spent in this epoch, including those before the run was resumed."""
        return time.perf_counter() - self._began

    def set_random_states(self) -> None:
        """Seed the global random generators, or restore their states from the checkpoint."""
        if self._random is None:
            seed_global_states(self.seed)
        else:
            _set_random_states(self._random, self.device)

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps, as plain values and tensors.

        All processes must call it, since it gathers the random states and counts of each.
        """
        this = {"random": _random_states(self.device), "watch": self.watch.state_dict()}
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "step": self.step.state_dict(),
            "meter": self.meter.state_dict(),
            "processes": gather_values(this),
            "seconds": self.seconds(),
            "loading": self.loading.seconds(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, even if the number of processes has changed."""
        self.steps, self.learning_rate = state["steps"], state["learning_rate"]
        self.step.load_state_dict(state["step"])
        self.meter.load_state_dict(state["meter"])
        processes = state["processes"]
        self._random = processes[rank() % len(processes)]["random"]
        for process in processes[rank() :: size()]:
            self.watch.add(process["watch"])
        self._began -= state["seconds"]
        self.loading.before = state["loading"]


@contextmanager
def kept_random_states(device: torch.device) -> Iterator[None]:
    """Return a context after which the global random generators have their states from before."""
    states = _random_states(device)
    try:
        yield
    finally:
        _set_random_states(states, device)


def _random_states(device: torch.device) -> dict[str, Any]:
    """The states of the global random generators, as values that a checkpoint can hold."""
    of_torch, (name, words, *rest), of_python = global_states()
    states = {"torch": of_torch, "numpy": (name, words.tolist(), *rest), "python": of_python}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    set_global_states((states["torch"].cpu(), states["numpy"], states["python"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


class Evaluations(NamedTuple):
    """Evaluations after an epoch: on the test images, and on held-out images, if any."""

    test: Evaluation
    dev: Evaluation | None


def record_epoch(
    stage: str, state: EpochState, epoch: int, evaluations: Evaluations, trained: float
) -> EpochRecord:
    """Make the record of a finished epoch.

    It reads the measured means, which synchronises with the device. `epoch` counts from 0 over all
    stages; `trained` is the seconds that the epoch's steps took, without the evaluations.
    """
    meter, watch = state.meter, state.watch
    task_norm, transfer_norm, clipped_norm = meter.mean_norms()
    dev = evaluations.dev
    return EpochRecord(
        stage=stage,
        epoch=epoch,
        learning_rate=state.learning_rate,
        task_loss=meter.mean_task_loss(),
        transfer_loss=meter.mean_transfer_loss(),
        train_accuracy=meter.train_accuracy(),
        dev_accuracy=None if dev is None else dev.accuracy,
        test_accuracy=evaluations.test.accuracy,
        test_loss=evaluations.test.loss,
        task_norm=task_norm,
        transfer_norm=transfer_norm,
        clipped_norm=clipped_norm,
        images_per_second=meter.images / trained,
        seconds=state.seconds(),
        svd_missed=watch.missed_share(),
        svd_close=watch.close_share(),
        loading_seconds=state.loading.seconds(),
        skipped_steps=meter.skipped,
    )
