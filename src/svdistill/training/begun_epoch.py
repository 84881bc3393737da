"""An epoch that has begun: what is measured in it, and what a run needs to go on within it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from svdistill.data.random_states import global_states, seed_global_states, set_global_states
from svdistill.linalg import Convergence
from svdistill.parallel import gather_values, rank, size
from svdistill.training.loading_time import loading_time
from svdistill.training.metrics import EpochMeter
from svdistill.training.step import Step


class BegunEpoch:
    """Counts the steps of an epoch, and keeps what they leave beside weights and optimizer.

    Args:
        device: that trains.
        learning_rate: of the first step.
        step: what it carries from step to step is kept too.
        watch: counts decompositions; begins again here.
        seed: of torch, NumPy and Python for this epoch, used when it begins.

    Attributes:
        steps: done so far.
        meter: losses, accuracy and norms so far.
        loading: how long was waited for images.
    """

    def __init__(
        self,
        device: torch.device,
        learning_rate: float,
        step: Step,
        watch: Convergence,
        seed: int,
    ) -> None:
        self.device = device
        self.learning_rate = learning_rate
        self.step = step
        self.watch = watch
        self.seed = seed
        self.steps = 0
        self.meter = EpochMeter(device)
        self.loading = loading_time(device)
        self._random: Mapping[str, Any] | None = None
        self._began = time.perf_counter()
        watch.reset()

    def seconds(self) -> float:
        """Since it began, without the time between two processes."""
        return time.perf_counter() - self._began

    def set_random_states(self) -> None:
        """Set the global random states: by the seed, or to what they were."""
        if self._random is None:
            seed_global_states(self.seed)
        else:
            _set_random_states(self._random, self.device)

    def state_dict(self) -> dict[str, Any]:
        """All of it between two steps, as plain values and tensors.

        In processes that train together all must call it, for each has numbers of its own.
        """
        own = {"random": _random_states(self.device), "watch": self.watch.state_dict()}
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "step": self.step.state_dict(),
            "meter": self.meter.state_dict(),
            "of_each": gather_values(own),
            "seconds": self.seconds(),
            "loading": self.loading.seconds(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, in the same number of processes or another."""
        self.steps, self.learning_rate = state["steps"], state["learning_rate"]
        self.step.load_state_dict(state["step"])
        self.meter.load_state_dict(state["meter"])
        of_each = state["of_each"]
        self._random = of_each[rank() % len(of_each)]["random"]
        for own in of_each[rank() :: size()]:
            self.watch.add(own["watch"])
        self._began -= state["seconds"]
        self.loading.before = state["loading"]


def _random_states(device: torch.device) -> dict[str, Any]:
    """The global random states as values that a checkpoint can hold."""
    of_torch, (name, words, *rest), of_python = global_states()
    states = {"torch": of_torch, "numpy": (name, words.tolist(), *rest), "python": of_python}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    set_global_states((states["torch"].cpu(), states["numpy"], states["python"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
