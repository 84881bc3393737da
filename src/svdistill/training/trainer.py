"""The training loop: step, evaluate, log, save; the same for every stage and method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, OneCycleLR

from svdistill.common import RunError, Stopped
from svdistill.config import TrainConfig
from svdistill.data import ImageData, ImageSplit
from svdistill.linalg import Convergence, watch_convergence
from svdistill.parallel import is_grouped, own_share, require_alike
from svdistill.runs import Checkpoint, Place, RunDirectory, WeightsCard, save_weights
from svdistill.store import KnowledgeStore
from svdistill.training.epoch import (
    LOOK_EVERY,
    BegunEpoch,
    Epochs,
    Evaluations,
    Views,
    record_epoch,
)
from svdistill.training.metrics import Evaluation, evaluate_network, require_finite
from svdistill.training.progress import Reporter, loading_advice
from svdistill.training.step import Step
from svdistill.training.stopping import StopRequests

if TYPE_CHECKING:
    from accelerate import Accelerator


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> Optimizer:
    """An optimizer over the parameters.

    Args:
        name: `"sgd"`, with Nesterov momentum 0.9 as in the paper, or `"adamw"`.
        parameters: those to train.
        learning_rate: the highest of the schedule.
        weight_decay: coupled for `"sgd"`, decoupled for `"adamw"`.

    Example:
        >>> build_optimizer("sgd", [nn.Parameter(torch.zeros(2))], 0.1, 0.0).defaults["nesterov"]
        True
    """
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
        )
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)


def build_schedule(
    name: str, optimizer: Optimizer, learning_rate: float, total_steps: int
) -> LRScheduler:
    """A schedule that is advanced after every step.

    Args:
        name: `"paper"` (x0.1 at half of the steps, x0.01 at three quarters), `"one_cycle"` (up to
            the learning rate over 30 % of the steps, then down along a cosine) or `"constant"`.
        optimizer: whose learning rate is set.
        learning_rate: the highest.
        total_steps: steps of the whole stage.

    Example:
        >>> sgd = build_optimizer("sgd", [nn.Parameter(torch.zeros(2))], 1.0, 0.0)
        >>> schedule = build_schedule("paper", sgd, 1.0, total_steps=4)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates += schedule.get_last_lr()
        ...     sgd.step()
        ...     schedule.step()
        >>> [round(rate, 3) for rate in rates]
        [1.0, 1.0, 0.1, 0.01]

    Source: milestones of the paper's protocol (100 and 150 of 200 epochs); Smith, Topin,
    "Super-Convergence", 2018.
    """
    if name == "one_cycle":
        # The momentum stays: Nesterov's correction is tuned for one value. One step more than
        # there are, since the schedule is also advanced after the last.
        return OneCycleLR(optimizer, learning_rate, total_steps + 1, cycle_momentum=False)
    if name == "paper":
        milestones = [math.ceil(total_steps / 2), math.ceil(total_steps * 3 / 4)]
        return MultiStepLR(optimizer, milestones, gamma=0.1)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


@dataclass(frozen=True)
class Stage:
    """So many epochs of one kind of step, with an optimizer and a schedule of their own.

    Its steps get the teacher's knowledge from the store, where there is one.
    """

    name: str
    step: Step
    epochs: int
    store: KnowledgeStore | None = None


class Loop:
    """Trains a network through its stages, from wherever its run directory says it has come.

    Args:
        network: the one to train and to save, on the accelerator's device.
        stages: at least one.
        data: images to train and evaluate on.
        config: optimizer, schedule, batch size, augmentation and seed.
        views: which views of the images are trained on.
        run: where checkpoint, metrics and weights go.
        accelerator: device, precision and trackers.
        reporter: what a person sees.
        stops: is asked between steps, and between batches of an evaluation.
    """

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[Stage],
        data: ImageData,
        config: TrainConfig,
        views: Views,
        run: RunDirectory,
        accelerator: Accelerator,
        reporter: Reporter,
        stops: StopRequests,
    ) -> None:
        self.network = network
        self.stages = stages
        self.data = data
        self.config = config
        self.views = views
        self.run = run
        self.accelerator = accelerator
        self.reporter = reporter
        self.stops = stops
        self.saved = time.monotonic()
        size = data.image_shape[-1]
        self.augmentation = data.augmentation(config.augmentation).to(accelerator.device)
        self.epochs = [
            Epochs(
                data.train if stage.step.uses_unlabelled else data.train.labelled,
                *(config, views, self.augmentation, accelerator, reporter),
            )
            for stage in stages
        ]
        self.advised = False
        self.card = WeightsCard(
            config.network, config.width, data.class_names, data.mean, data.std, size
        )

    def fit(self) -> Place:
        """Train until the last epoch.

        Returns:
            Where the run ended.

        Raises:
            TrainingError: a loss is not finite. What was saved before stays.
            Stopped: a signal has come, and a checkpoint is saved.
        """
        start = self._resume()
        place, begun = start.place, start.begun
        steps_done = begun["steps"] if begun else 0
        # One file, on the disks of all.
        require_alike({"checkpoint": (replace(place, seconds=0.0), steps_done)})
        steps = [
            epochs.steps
            for stage, epochs in zip(self.stages, self.epochs, strict=True)
            for _ in range(stage.epochs)
        ]
        done = sum(steps[: place.total]) + steps_done
        self.reporter.start(self.run.path.name, sum(steps), done)
        self.saved = time.monotonic()
        with watch_convergence(self.accelerator.device) as watch:
            while place.stage < len(self.stages):
                place = self._fit_stage(start._replace(place=place), watch)
                place = replace(place, stage=place.stage + 1, epoch=0)
                start = Checkpoint(place, {})
        return place

    def _fit_stage(self, start: Checkpoint, watch: Convergence) -> Place:
        """The epochs of a stage that are left."""
        place = start.place
        stage, epochs = self.stages[place.stage], self.epochs[place.stage]
        optimizer, schedule = self._optimisation(stage, epochs.steps)
        if start.states:
            optimizer.load_state_dict(start.states["optimizer"])
            schedule.load_state_dict(start.states["schedule"])
        step = epochs.captured(stage.step, watch)
        save = partial(self._save, stage, optimizer, schedule)
        for epoch in range(place.epoch, stage.epochs):
            begun = epochs.begin(place, step, schedule, watch)
            if start.begun is not None:
                begun.load_state_dict(start.begun)
                start = start._replace(begun=None)
            between = partial(self._between_steps, save, place, begun, epochs.steps)
            epochs.train(place, begun, stage.store, optimizer, schedule, between)
            trained = begun.seconds()
            watch.add_other_processes()
            try:
                evaluations = self._evaluate_epoch()
            except Stopped:
                save(place, begun)
                self.stops.check(f"after the last step of epoch {place.total + 1}")
            test_loss = evaluations.test.loss
            require_finite("loss", test_loss, f"on the test images after epoch {place.total + 1}")
            record = record_epoch(stage.name, begun, place.total, evaluations, trained)
            place = replace(
                place,
                epoch=epoch + 1,
                total=place.total + 1,
                last_accuracy=record.test_accuracy,
                seconds=place.seconds + record.seconds,
            )
            place = self._save_weights(place, evaluations)
            self.run.append(record)
            self.accelerator.log(record.numbers(), step=record.epoch)
            save(place)
            self.reporter.epoch(record)
            self._advise(loading_advice(begun.loading.seconds(), trained, epochs.images))
            self.stops.hear(self.accelerator.device)
            self.stops.check(f"after epoch {place.total}")
        return place

    def _between_steps(
        self, save: Callable[[Place, BegunEpoch], None], place: Place, begun: BegunEpoch, steps: int
    ) -> None:
        """Save if it is time to, and stop if a signal has come."""
        device = self.accelerator.device
        if is_grouped() and begun.steps % LOOK_EVERY[device.type]:
            return  # asking the other processes synchronises with the device
        minutes = (time.monotonic() - self.saved) / 60
        due = 0 < self.config.checkpoint_minutes <= minutes
        if self.stops.hear(device, due) or self.stops.requested:
            begun.meter.require_finite(f"in epoch {place.total + 1}, by step {begun.steps}")
            save(place, begun)
        self.stops.check(f"after step {begun.steps} of {steps} in epoch {place.total + 1}")

    def _save(
        self,
        stage: Stage,
        optimizer: Optimizer,
        schedule: LRScheduler,
        place: Place,
        begun: BegunEpoch | None = None,
    ) -> None:
        """Write a checkpoint: the only place where one is made."""
        scaler = self.accelerator.scaler  # fp16's loss scale; None in other precisions
        states = {
            "network": self.network.state_dict(),
            "companions": self._companions(stage).state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
        }
        started = None if begun is None else begun.state_dict()
        self.run.checkpoints.save(Checkpoint(place, states, started))
        self.saved = time.monotonic()

    def evaluate(self, split: ImageSplit, network: nn.Module) -> Evaluation:
        """Accuracy and loss of a network on one of the splits."""
        return evaluate_network(
            network,
            split,
            self.augmentation,
            device=self.accelerator.device,
            each_batch=_go_on if is_grouped() else self.stops.check,
            share=own_share(),
        )

    def _evaluate_epoch(self) -> Evaluations:
        """The network as the epoch left it."""
        test = self.evaluate(self.data.test, self.network)
        dev = None if self.data.dev is None else self.evaluate(self.data.dev, self.network)
        return Evaluations(test, dev)

    def _save_weights(self, place: Place, evaluations: Evaluations) -> Place:
        """Keep the student of this epoch, and of the best one."""
        save_weights(self.run.student, self.network, self.card)
        score = evaluations.chooser.accuracy
        if score <= place.best_score:
            return place
        save_weights(self.run.best_student, self.network, self.card)
        return replace(
            place,
            best_epoch=place.total - 1,
            best_score=score,
            best_accuracy=evaluations.test.accuracy,
        )

    def _advise(self, advice: str | None) -> None:
        """Say once how images come faster, where there is something to say."""
        if advice is not None and not self.advised:
            self.reporter.message(advice)
            self.advised = True

    def _optimisation(self, stage: Stage, steps: int) -> tuple[Optimizer, LRScheduler]:
        config = self.config
        self.accelerator.free_memory()  # or it would unscale the last stage's gradients again
        optimizer = build_optimizer(
            config.optimizer, stage.step.parameters(), config.learning_rate, config.weight_decay
        )
        schedule = build_schedule(
            config.schedule, optimizer, config.learning_rate, steps * stage.epochs
        )
        prepared: tuple[Optimizer, LRScheduler] = self.accelerator.prepare(optimizer, schedule)
        return prepared

    def _companions(self, stage: Stage) -> nn.ParameterList:
        """What a stage trains beside the network: adapters, and the losses' own parameters."""
        own = set(self.network.parameters())
        return nn.ParameterList(p for p in stage.step.parameters() if p not in own)

    def _resume(self) -> Checkpoint:
        """Where to go on: network and adapters are as they were there, and the metrics too."""
        checkpoint = self.run.checkpoints.load(self.accelerator.device)
        if checkpoint is None:
            self.run.keep_epochs(0)
            return Checkpoint(Place(), {})
        place, states = checkpoint.place, checkpoint.states
        try:
            self.network.load_state_dict(states["network"])
            companions = self._companions(self.stages[place.stage])
            companions.load_state_dict(states.get("companions", {}))
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(states["scaler"])
        except (KeyError, RuntimeError) as error:
            raise RunError(
                str(self.run.checkpoints.newest),
                expected="a checkpoint of this run",
                got=" ".join(str(error).split())[:300],
                remedy="start the run again in another directory",
            ) from error
        self.run.keep_epochs(place.total)
        if place.epoch == self.stages[place.stage].epochs:
            return Checkpoint(replace(place, stage=place.stage + 1, epoch=0), {})
        return checkpoint


def _go_on() -> None:
    """Within an evaluation several processes do not stop: each would at another image."""
