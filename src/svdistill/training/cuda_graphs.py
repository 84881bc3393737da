"""Record a training step as a CUDA graph and replay it.

A step of a small network launches hundreds of kernels, and launching them one by one takes longer
than running them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from svdistill.linalg import Convergence
from svdistill.training.batch import MixedLabels, TrainingBatch
from svdistill.training.metrics import StepResult
from svdistill.training.step import Step

Outputs = TypeVar("Outputs")


class Recorder(Protocol):
    """Interface for recording GPU work; its inputs and outputs must stay in the same memory."""

    def warm_up(self, work: Callable[[], Outputs]) -> Outputs:
        """Execute the work without recording it, under the same conditions as a recording."""

    def record(self, work: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """Record the work without executing it.

        Returns:
            A function that executes the work and returns the same tensors, overwritten, each time.
        """


class CUDARecorder:
    """Records CUDA graphs, each with its own memory pool.

    Each replay draws new random numbers, and `torch.manual_seed` between replays takes effect,
    since `torch.cuda.graph` passes the default generator's state to each replay.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], Outputs]) -> Outputs:
        """Execute the work on the stream that will be recorded."""
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        # Libraries such as cuBLAS initialise themselves here, which a recording does not allow.
        with torch.cuda.stream(self.stream):
            outputs = work()
        here.wait_stream(self.stream)
        return outputs

    def record(self, work: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """See `Recorder`."""
        generator = torch.cuda.default_generators[self.stream.device_index]
        before = generator.clone_state()
        graph = torch.cuda.CUDAGraph()
        own: Exception | None = None
        try:
            # The outer context restores the caller's stream if recording fails. "thread_local" lets
            # threads that load images pin memory meanwhile.
            with (
                torch.cuda.stream(self.stream),
                torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
            ):
                try:
                    outputs = work()
                except Exception as error:
                    own = error
                    raise
        except Exception as error:
            # After a failed recording the generator still believes that it is being recorded.
            generator.graphsafe_set_state(before)
            # Ending the recording then fails too, with an error that hides the first one.
            raise (own or error) from None

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


# Steps of a kind that run normally before its recording: libraries choose kernels, allocate memory.
WARM_UP: Final = 3

_Size = list[tuple[torch.Size, torch.dtype]]  # shape and dtype of each tensor of a batch


class _Inputs:
    """Copies of a batch and its progress, at memory addresses that stay the same in all replays."""

    def __init__(self, batch: TrainingBatch) -> None:
        knowledge = None if batch.knowledge is None else batch.knowledge.map(torch.clone)
        mixed_in = batch.mixed_in and MixedLabels(*map(torch.clone, batch.mixed_in))
        self.batch = TrainingBatch(
            batch.images.clone(), batch.labels.clone(), knowledge, mixed_in=mixed_in
        )
        self.progress = torch.zeros((), device=batch.images.device)
        self.epoch = 0.0

    def fill(self, batch: TrainingBatch, progress: float) -> None:
        """Copy another batch of the same size, and its progress, into this memory."""
        for kept, given in zip(_tensors(self.batch), _tensors(batch), strict=True):
            kept.copy_(given)
        if progress != self.epoch:
            self.progress.fill_(progress)
            self.epoch = progress


class _Replay(NamedTuple):
    """A recorded step, and how many matrices one replay decomposes and differentiates."""

    run: Callable[[], tuple[StepResult, list[Tensor | None]]]
    decomposed: int
    differentiated: int


class CUDAGraphStep:
    """Records a step as CUDA graphs, one for each kind of step (`Step.plan`), and replays them.

    The first three steps of a kind run normally, and so do batches whose size differs from the
    recorded one, such as the last of an epoch. A larger batch, or two successive batches of one
    other size, start new recordings for their size. Gradients replace `.grad`, and the next step
    overwrites the result. The optimizer's step is not recorded, so that the schedule may change the
    learning rate.

    Changes of the teacher's weights, hooks or modes after a recording have no effect. If a step
    cannot be recorded, a warning says why, and all steps run normally.

    Args:
        step: the step to record. It must not synchronise with the device, see `linalg.may_branch`.
        recorder: `CUDARecorder`, or a substitute in tests.
        watch: counts the matrices that the step decomposes and differentiates.
    """

    def __init__(self, step: Step, recorder: Recorder, watch: Convergence) -> None:
        self.step = step
        self.recorder = recorder
        self.watch = watch
        self._trained: list[nn.Parameter] = step.parameters()
        self._inputs: _Inputs | None = None
        self._size: _Size = []  # of the recorded batches
        self._other_size: _Size = []  # of the last batch, if it differed from that size
        self._warmed: Counter[bool] = Counter()
        self._replays: dict[bool, _Replay] = {}
        self._failed = False

    def __call__(
        self, batch: TrainingBatch, progress: float | Tensor, measure: bool | None = None
    ) -> StepResult:
        """Compute losses and gradients, by a replay if this kind of step has been recorded."""
        if batch.part is not None:  # a recording would turn its factors into constants
            return self.step(batch, progress, measure)
        epoch = float(progress)
        if measure is None:
            measure = self.step.plan(epoch)
        inputs = None if self._failed else self._inputs_for(batch)
        if inputs is None:
            return self.step(batch, epoch, measure)
        inputs.fill(batch, epoch)
        if measure not in self._replays and self._warmed[measure] < WARM_UP:
            self._warmed[measure] += 1
            return self.recorder.warm_up(partial(self._work, inputs, measure))[0]
        try:
            replay = self._replays.get(measure) or self._record(inputs, measure)
        except Exception as error:  # a model may do anything that cannot be recorded
            self._give_up(error)
            return self.step(batch, epoch, measure)
        result, gradients = replay.run()
        self.watch.decomposed += replay.decomposed
        self.watch.differentiated += replay.differentiated
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = gradient
        return result

    def _inputs_for(self, batch: TrainingBatch) -> _Inputs | None:
        """Return fixed memory of the batch's size; None if batches of this size run normally."""
        size = [(tensor.shape, tensor.dtype) for tensor in _tensors(batch)]
        if self._inputs is not None and size == self._size:
            self._other_size = []
            return self._inputs
        larger = self._inputs is None or len(batch.images) > len(self._inputs.batch.images)
        if not larger and size != self._other_size:
            self._other_size = size
            return None
        self._size, self._other_size = size, []
        self._inputs = _Inputs(batch)
        self._warmed.clear()
        self._replays.clear()
        return self._inputs

    def _work(self, inputs: _Inputs, measure: bool) -> tuple[StepResult, list[Tensor | None]]:
        """The work to record: one step. It creates new gradients, which each replay overwrites."""
        for parameter in self._trained:
            parameter.grad = None
        result = self.step(inputs.batch, inputs.progress, measure)
        return result, [parameter.grad for parameter in self._trained]

    def _record(self, inputs: _Inputs, measure: bool) -> _Replay:
        watch = self.watch
        before = watch.decomposed, watch.differentiated
        run = self.recorder.record(partial(self._work, inputs, measure))
        counted = watch.decomposed - before[0], watch.differentiated - before[1]
        watch.decomposed, watch.differentiated = before
        self._replays[measure] = _Replay(run, *counted)
        return self._replays[measure]

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        self._replays.clear()
        for parameter in self._trained:
            parameter.grad = None
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        warnings.warn(
            "the step cannot be recorded as a CUDA graph and runs kernel by kernel: "
            f"{reason}. `capture: off` leaves it out",
            RuntimeWarning,
            stacklevel=3,
        )


def _tensors(batch: TrainingBatch) -> list[Tensor]:
    knowledge = () if batch.knowledge is None else batch.knowledge.tensors()
    return [batch.images, batch.labels, *knowledge, *(batch.mixed_in or ())]
