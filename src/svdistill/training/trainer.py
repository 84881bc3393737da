"""The training loop, the same for every stage and method: train, evaluate, log, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from svdistill.common import RunError, Stopped
from svdistill.config import TrainConfig
from svdistill.data import Batch, ImageSplit
from svdistill.linalg import Convergence, watch_convergence
from svdistill.parallel import ALONE, is_grouped, own_share, require_alike
from svdistill.runs import Checkpoint, EpochRecord, TrainingPosition, WeightsCard, save_weights
from svdistill.training.batch import TrainingBatch, mixed
from svdistill.training.cuda_graphs import CUDAGraphStep, CUDARecorder
from svdistill.training.epoch import EpochState, Evaluations, record_epoch
from svdistill.training.metrics import (
    Evaluation,
    EvaluationImages,
    StepResult,
    evaluate_network,
    require_finite,
)
from svdistill.training.optimizer import averaged, build_optimizer, build_schedule
from svdistill.training.progress import loading_advice
from svdistill.training.reproducibility import derive_seed
from svdistill.training.setup import RunContext
from svdistill.training.step import AccumulatedStep, Step, TrainingStage

# Number of steps after which losses are checked to be finite. A check synchronises with the device.
CHECK_EVERY: Final = {"cpu": 1, "cuda": 50}


@dataclass(frozen=True)
class _ActiveStage:
    """The stage that is being trained, with all that it needs.

    `execute` runs the stage's step, for example as a CUDA graph; see `executed_step`.
    """

    stage: TrainingStage
    images: ImageSplit
    execute: Callable[[TrainingBatch, float], StepResult]
    optimizer: Optimizer
    schedule: LRScheduler
    watch: Convergence


class Trainer:
    """Trains a network stage by stage, continuing from the run's last checkpoint, if any.

    Args:
        network: the network to train and to save, on the accelerator's device.
        stages: the stages to train in this order, at least one.
        context: configuration, images, run directory, device and reporter.

    Attributes:
        position: how far the run has come.
        tested: the latest evaluation on the test images; None before this process has made one.
    """

    def __init__(
        self, network: nn.Module, stages: Sequence[TrainingStage], context: RunContext
    ) -> None:
        self.network = network
        self.stages = stages
        self.context = context
        self.position = TrainingPosition()
        self.tested: Evaluation | None = None
        self.device = context.device
        self.share = own_share()
        data, config = context.data, context.config
        self.augmentation = data.augmentation(config.augmentation).to(self.device)
        self.card = WeightsCard(
            *(config.network, config.width, data.class_names, data.mean, data.std),
            image_size=data.image_shape[-1],
        )
        self.average = None if config.ema is None else averaged(network, config.ema)
        self._saved_at = time.monotonic()
        self._advised = False

    @property
    def result(self) -> nn.Module:
        """The network to evaluate and save: the trained one, or its copy with averaged weights."""
        return self.network if self.average is None else self.average.module

    def fit(self) -> TrainingPosition:
        """Train from the last checkpoint, if any, to the end of the last epoch.

        Returns:
            The position at the end of the run.

        Raises:
            TrainingError: a loss is not finite. Checkpoints saved before are kept.
            Stopped: a stop signal was received, and a checkpoint has been saved.
        """
        checkpoint = self._resume()
        self.position = checkpoint.position
        self._start_reporter(checkpoint)
        self._saved_at = time.monotonic()
        with watch_convergence(self.device) as watch:
            for stage in self.stages[self.position.stage :]:
                state = self._begin_stage(stage, checkpoint.states, watch)
                self._fit_stage(state, checkpoint.epoch_state)
                self.position = self.position.next_stage()
                checkpoint = Checkpoint(self.position, {})
        if self.average is not None:
            self.network.load_state_dict(self.average.module.state_dict())
        return self.position

    def _fit_stage(self, active: _ActiveStage, unfinished: dict[str, Any] | None) -> None:
        """Train a stage's remaining epochs; `unfinished` is the first one's saved state, if any."""
        for _ in range(self.position.epoch, active.stage.epochs):
            epoch = self._begin_epoch(active, unfinished)
            unfinished = None
            self._train_epoch(active, epoch)
            trained = epoch.seconds()
            active.watch.add_other_processes()
            evaluations = self._evaluate_epoch(active, epoch)
            record = record_epoch(
                active.stage.name, epoch, self.position.total, evaluations, trained
            )
            self._end_epoch(record, evaluations)
            self.context.run.append(record)
            self.context.accelerator.log(record.numbers(), step=record.epoch)
            self._save(active)
            self.context.reporter.epoch(record)
            self._advise(loading_advice(epoch.loading.seconds(), trained, active.images))
            self.context.stops.poll(self.device)
            self.context.stops.check(f"after epoch {self.position.total}")

    def _train_epoch(self, active: _ActiveStage, epoch: EpochState) -> None:
        """Train the remaining steps of an epoch."""
        max_grad_norm, accelerator = self.context.config.max_grad_norm, self.context.accelerator
        step, meter, optimizer = active.stage.step, epoch.meter, active.optimizer
        step.train_mode()
        batches = active.images.batches(
            self.context.config.batch_size,
            device=self.device,
            order_seed=self._seed("order"),
            skip=epoch.steps,
            share=self.share,
        )
        epoch.set_random_states()
        for number, batch in enumerate(epoch.loading.watch(batches), start=epoch.steps + 1):
            training_batch = self._training_batch(active, batch, number)
            result = active.execute(training_batch, self.position.epoch)
            meter.update(result, training_batch.labels)
            self._check_losses(epoch, number)
            if max_grad_norm is not None:
                accelerator.clip_grad_norm_(step.parameters(), max_grad_norm)
            optimizer.step()
            if getattr(optimizer, "step_was_skipped", False):  # fp16 gradients overflowed
                meter.skipped += 1
                step.measure_again()
            elif self.average is not None:
                self.average.update_parameters(self.network)
            optimizer.zero_grad()
            active.schedule.step()
            epoch.steps = number
            self.context.reporter.step(meter)
            self._save_or_stop(active, epoch)
        step.end_epoch()

    def _training_batch(self, active: _ActiveStage, batch: Batch, number: int) -> TrainingBatch:
        """Augment a batch's images, and read the teacher's knowledge of them, if stored."""
        views, epoch, store = self.context.views, self.position.total, active.stage.store
        if active.images.repeats:
            view = views.of_step(epoch, number, self._steps(active.images))
        else:
            view = views.of_epoch(epoch)
        images = self.augmentation(batch.images, seed=views.seed, indices=batch.indices, view=view)
        knowledge = None if store is None else store.read(batch.indices, view, self.device)
        config = self.context.config
        drawn = TrainingBatch(images, batch.labels, knowledge, batch.part)
        if config.mix is not None:
            seed = self._seed("mix", number, self.share.rank)
            drawn = mixed(drawn, config.mix, config.mix_alpha, seed)
        return drawn._replace(images=drawn.images.contiguous(memory_format=torch.channels_last))

    def _check_losses(self, epoch: EpochState, number: int) -> None:
        every = CHECK_EVERY[self.device.type]
        if number % every == 0 or number == epoch.total_steps:
            by = "" if every == 1 else "by "
            epoch.meter.require_finite(f"in epoch {self.position.total + 1}, {by}step {number}")

    def _save_or_stop(self, active: _ActiveStage, epoch: EpochState) -> None:
        """Save a checkpoint if one is due; raise `Stopped` if a signal was received."""
        if is_grouped() and epoch.steps % CHECK_EVERY[self.device.type]:
            return  # polling the other processes synchronises with the device
        stops, where = self.context.stops, f"in epoch {self.position.total + 1}"
        minutes = (time.monotonic() - self._saved_at) / 60
        due = 0 < self.context.config.checkpoint_minutes <= minutes
        if stops.poll(self.device, due) or stops.requested:
            epoch.meter.require_finite(f"{where}, by step {epoch.steps}")
            self._save(active, epoch)
        stops.check(f"after step {epoch.steps} of {epoch.total_steps} {where}")

    def evaluate(self, split: ImageSplit, network: nn.Module) -> Evaluation:
        """Compute a network's accuracy and loss on a split of the run's images."""
        # Several processes stop between steps only: within an evaluation they are not in sync.
        each_batch = (lambda: None) if is_grouped() else self.context.stops.check
        images = EvaluationImages(split, self.augmentation)
        return evaluate_network(
            network, images, device=self.device, each_batch=each_batch, share=self.share
        )

    def _evaluate_epoch(self, active: _ActiveStage, epoch: EpochState) -> Evaluations:
        data, number = self.context.data, self.position.total + 1
        try:
            test = self.evaluate(data.test, self.result)
            dev = None if data.dev is None else self.evaluate(data.dev, self.result)
        except Stopped:
            self._save(active, epoch)
            self.context.stops.check(f"after the last step of epoch {number}")
            raise
        require_finite("loss", test.loss, f"on the test images after epoch {number}")
        self.tested = test
        return Evaluations(test, dev)

    def _end_epoch(self, record: EpochRecord, evaluations: Evaluations) -> None:
        """Advance the position, and save the weights, twice if they are the best so far."""
        self.position = self.position.next_epoch(record.test_accuracy, record.seconds)
        save_weights(self.context.run.student, self.result, self.card)
        score = (evaluations.dev or evaluations.test).accuracy
        if score > self.position.best_score:
            save_weights(self.context.run.best_student, self.result, self.card)
            self.position = replace(
                self.position,
                best_epoch=record.epoch,
                best_score=score,
                best_accuracy=record.test_accuracy,
            )

    def _save(self, active: _ActiveStage, epoch: EpochState | None = None) -> None:
        """Write a checkpoint; within an epoch, include the epoch's state."""
        scaler = self.context.accelerator.scaler  # fp16's gradient scaler; None in other precisions
        states = {
            "network": self.network.state_dict(),
            "companions": self._companions(active.stage).state_dict(),
            "optimizer": active.optimizer.state_dict(),
            "schedule": active.schedule.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
            "average": {} if self.average is None else self.average.state_dict(),
        }
        epoch_state = None if epoch is None else epoch.state_dict()
        self.context.run.checkpoints.save(Checkpoint(self.position, states, epoch_state))
        self._saved_at = time.monotonic()

    def _resume(self) -> Checkpoint:
        """Load the last checkpoint into network and adapters; drop metrics of epochs after it."""
        run, scaler = self.context.run, self.context.accelerator.scaler
        checkpoint = run.checkpoints.load(self.device)
        if checkpoint is None:
            run.keep_epochs(0)
            return Checkpoint(TrainingPosition(), {})
        position, states = checkpoint.position, checkpoint.states
        stage = self.stages[position.stage]
        try:
            self.network.load_state_dict(states["network"])
            self._companions(stage).load_state_dict(states.get("companions", {}))
            if scaler is not None:
                scaler.load_state_dict(states["scaler"])
            if self.average is not None:
                self.average.load_state_dict(states["average"])
        except (KeyError, RuntimeError) as error:
            raise RunError(
                str(run.checkpoints.newest),
                expected="a checkpoint of this run",
                got=" ".join(str(error).split())[:300],
                remedy="start the run again in another directory",
            ) from error
        run.keep_epochs(position.total)
        if position.epoch == stage.epochs:
            return Checkpoint(position.next_stage(), {})
        return checkpoint

    def _start_reporter(self, checkpoint: Checkpoint) -> None:
        """Check that all processes read the same checkpoint, and start the progress display."""
        position, unfinished = checkpoint.position, checkpoint.epoch_state
        steps_done = unfinished["steps"] if unfinished else 0
        require_alike({"checkpoint": (replace(position, seconds=0.0), steps_done)})
        steps = [
            self._steps(self._images(stage)) for stage in self.stages for _ in range(stage.epochs)
        ]
        done = sum(steps[: position.total]) + steps_done
        data, config = self.context.data, self.context.config
        evaluated = len(data.test) + (0 if data.dev is None else len(data.dev))
        # Evaluating an image takes about a third of the time of training on it: no backward pass.
        evaluation = evaluated / config.batch_size / 3
        evaluations = evaluation * (len(steps) - position.total)
        self.context.reporter.start(self.context.run.path.name, sum(steps), done, evaluations)

    def _begin_stage(
        self, stage: TrainingStage, states: dict[str, dict[str, Any]], watch: Convergence
    ) -> _ActiveStage:
        """Build a stage's optimizer and schedule; restore their states from a checkpoint."""
        config, accelerator = self.context.config, self.context.accelerator
        images = self._images(stage)
        accelerator.free_memory()  # else it unscales the last stage's gradients too
        rate, steps = config.learning_rate, self._steps(images)
        assert rate is not None  # set by `config.filled`, like the next one
        assert config.weight_decay is not None
        parameters = stage.step.parameters()
        optimizer = build_optimizer(config.optimizer, parameters, rate, config.weight_decay)
        warmup = round(steps * config.warmup(stage.epochs))
        schedule = build_schedule(config.schedule, optimizer, rate, steps * stage.epochs, warmup)
        optimizer, schedule = accelerator.prepare(optimizer, schedule)
        if states:
            optimizer.load_state_dict(states["optimizer"])
            schedule.load_state_dict(states["schedule"])
        execute = executed_step(stage.step, config, self.device, watch, accelerator.scaler)
        return _ActiveStage(stage, images, execute, optimizer, schedule, watch)

    def _begin_epoch(self, active: _ActiveStage, unfinished: dict[str, Any] | None) -> EpochState:
        """The state of a new epoch, or of an unfinished one from its checkpoint."""
        # Each process seeds dropout differently, since it trains on its own part of a batch.
        rank = (self.share.rank,) if self.share.rank else ()
        epoch = EpochState(
            active.stage.step,
            active.watch,
            self.device,
            total_steps=self._steps(active.images),
            learning_rate=float(active.schedule.get_last_lr()[0]),
            seed=self._seed("dropout", *rank),
        )
        if unfinished is not None:
            epoch.load_state_dict(unfinished)
        return epoch

    def _seed(self, purpose: str, *more: int) -> int:
        """A seed for a purpose in the current epoch."""
        position = self.position
        return derive_seed(self.context.config.seed, purpose, position.stage, position.epoch, *more)

    def _images(self, stage: TrainingStage) -> ImageSplit:
        """The training images of a stage; without unlabelled ones, unless its step uses them."""
        train = self.context.data.train
        return train if stage.step.uses_unlabelled else train.labelled

    def _steps(self, images: ImageSplit) -> int:
        """Number of steps in one epoch over the images."""
        return images.steps(self.context.config.batch_size)

    def _companions(self, stage: TrainingStage) -> nn.ParameterList:
        """Parameters and buffers of a stage outside the network: those of adapters and losses."""
        own = {*self.network.parameters(), *self.network.buffers()}
        parameters = [p for p in stage.step.parameters() if p not in own]
        # They share the buffers' memory, so that loading a state writes to the buffers.
        buffers = [
            nn.Parameter(b, requires_grad=False) for b in stage.step.buffers() if b not in own
        ]
        return nn.ParameterList([*parameters, *buffers])

    def _advise(self, advice: str | None) -> None:
        """Show advice on loading images faster, at most once in a run."""
        if advice is not None and not self._advised:
            self.context.reporter.message(advice)
            self._advised = True


def executed_step(
    step: Step,
    config: TrainConfig,
    device: torch.device,
    watch: Convergence,
    scaler: object = None,
) -> Callable[..., StepResult]:
    """Wrap a step for execution: in parts of a batch, as CUDA graphs, or unchanged.

    CUDA graphs are used on a GPU with a single process and without fp16's gradient scaler.
    """
    if config.accumulate > 1:
        return AccumulatedStep(step, config.accumulate)
    fixed = not scaler and own_share() == ALONE
    if device.type != "cuda" or not fixed or config.capture == "off":
        return step
    return CUDAGraphStep(step, CUDARecorder(device), watch)
