"""A training step recorded as a CUDA graph and replayed.

The step of a small network is some hundreds of kernels, which take longer to start one by one than
to run.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from svdistill.linalg import Convergence
from svdistill.losses import Knowledge
from svdistill.parallel import BatchPart
from svdistill.training.metrics import StepResult
from svdistill.training.step import Step

Outputs = TypeVar("Outputs")


class Recorder(Protocol):
    """How work is recorded. What it reads and writes must stay in the same memory."""

    def warm_up(self, work: Callable[[], Outputs]) -> Outputs:
        """Do the work now, where it will be recorded."""

    def record(self, work: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """Record the work without doing it.

        Returns:
            A function that does it, and returns the same tensors each time.
        """


class CUDARecorder:
    """Records CUDA graphs, each with memory of its own.

    Random numbers go on from replay to replay, and `torch.manual_seed` between replays is obeyed:
    `torch.cuda.graph` gives the default generator's state to each replay anew.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], Outputs]) -> Outputs:
        """Do the work on the stream that is recorded later."""
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        # The kernels to be recorded: a library that first wakes up while recording would spoil it.
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
            # The outer context returns to the caller's stream also where recording fails. Threads
            # that load images may pin memory meanwhile, which "thread_local" lets them do.
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
            # A recording that failed leaves the generator waiting for its end.
            generator.graphsafe_set_state(before)
            # Ending the recording fails too, with an error that hides the cause.
            raise (own or error) from None

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


WARM_UP: Final = 3  # steps of a kind before it is recorded: libraries choose and allocate in them


_Size = list[tuple[torch.Size, torch.dtype]]  # of all tensors of a batch


class _Inputs:
    """Where a recorded step finds its batch: always in the same memory."""

    def __init__(self, images: Tensor, labels: Tensor, knowledge: Knowledge | None) -> None:
        self.images = images.clone()
        self.labels = labels.clone()
        self.knowledge = None if knowledge is None else knowledge.map(torch.clone)
        self.progress = torch.zeros((), device=images.device)
        self.epoch = 0.0

    def fill(
        self, images: Tensor, labels: Tensor, progress: float, knowledge: Knowledge | None
    ) -> None:
        """Copy in a batch of the same size."""
        old = _tensors(self.images, self.labels, self.knowledge)
        for kept, given in zip(old, _tensors(images, labels, knowledge), strict=True):
            kept.copy_(given)
        if progress != self.epoch:
            self.progress.fill_(progress)
            self.epoch = progress


class _Replay(NamedTuple):
    """A kind of step: how to do it again, and how many matrices each time count as what."""

    run: Callable[[], tuple[StepResult, list[Tensor | None]]]
    decomposed: int
    differentiated: int


class CapturedStep(Step):
    """Another step, recorded; one graph for each of its kinds.

    The first three steps of a kind are ordinary ones. So is one on a batch of another size than the
    recorded one, as an epoch's last may be. A larger batch, or two in succession of another size,
    replace the recorded size: the first batch may be a short one. Gradients replace what `.grad`
    held, and the result lies in memory that the next step overwrites. The optimizer's step is not
    recorded: it is a handful of kernels, and so a schedule may change the learning rate as ever.

    A teacher's weights, hooks and modes are looked at while recording: changes after that go
    unseen. Where a step cannot be recorded, a warning says why, and it runs as it is.

    Args:
        step: what to record. In it nothing may wait for the device, see `linalg.may_branch`.
        recorder: how; `CUDARecorder` but for tests.
        watch: counts the matrices that the step decomposes and differentiates.
    """

    def __init__(self, step: Step, recorder: Recorder, watch: Convergence) -> None:
        self.step = step
        self.recorder = recorder
        self.watch = watch
        self._trained: list[nn.Parameter] = step.parameters()
        self._inputs: _Inputs | None = None
        self._size: _Size = []  # of the batches that are recorded
        self._other_size: _Size = []  # of the last batch, if it was not of this size
        self._warmed: Counter[bool] = Counter()
        self._replays: dict[bool, _Replay] = {}
        self._failed = False

    def parameters(self) -> list[nn.Parameter]:
        """What the step trains."""
        return self._trained

    def train_mode(self) -> None:
        """Put the trained network in training mode."""
        self.step.train_mode()

    def plan(self, progress: float) -> bool:
        """Which kind the next step is of."""
        return self.step.plan(progress)

    def measure_again(self) -> None:
        """Let nothing follow from the last gradients."""
        self.step.measure_again()

    def state_dict(self) -> dict[str, Any]:
        """What the step carries to the next one."""
        return self.step.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.step.load_state_dict(state)

    def end_epoch(self) -> None:
        """Called after the last step of an epoch."""
        self.step.end_epoch()

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | Tensor,
        knowledge: Knowledge | None = None,
        measure: bool | None = None,
        part: BatchPart | None = None,
    ) -> StepResult:
        """Fill the gradients, by a replay if this kind of step has been recorded."""
        if part is not None:  # its factors are numbers, which a recording would keep
            return self.step(images, labels, progress, knowledge, measure, part)
        epoch = float(progress)
        if measure is None:
            measure = self.plan(epoch)
        inputs = None if self._failed else self._inputs_for(images, labels, knowledge)
        if inputs is None:
            return self.step(images, labels, epoch, knowledge, measure)
        inputs.fill(images, labels, epoch, knowledge)
        if measure not in self._replays and self._warmed[measure] < WARM_UP:
            self._warmed[measure] += 1
            return self.recorder.warm_up(partial(self._work, inputs, measure))[0]
        try:
            replay = self._replays.get(measure) or self._record(inputs, measure)
        except Exception as error:  # whatever a foreign model does that cannot be recorded
            self._give_up(error)
            return self.step(images, labels, epoch, knowledge, measure)
        result, gradients = replay.run()
        self.watch.decomposed += replay.decomposed
        self.watch.differentiated += replay.differentiated
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = gradient
        return result

    def _inputs_for(
        self, images: Tensor, labels: Tensor, knowledge: Knowledge | None
    ) -> _Inputs | None:
        """Memory for a batch of the recorded size, or of the size recorded from now on."""
        size = [(tensor.shape, tensor.dtype) for tensor in _tensors(images, labels, knowledge)]
        if self._inputs is not None and size == self._size:
            self._other_size = []
            return self._inputs
        larger = self._inputs is None or len(images) > len(self._inputs.images)
        if not larger and size != self._other_size:
            self._other_size = size
            return None
        self._size, self._other_size = size, []
        self._inputs = _Inputs(images, labels, knowledge)
        self._warmed.clear()
        self._replays.clear()
        return self._inputs

    def _work(self, inputs: _Inputs, measure: bool) -> tuple[StepResult, list[Tensor | None]]:
        """What is recorded. It makes new gradients, which each replay fills: it adds to none."""
        for parameter in self._trained:
            parameter.grad = None
        result = self.step(inputs.images, inputs.labels, inputs.progress, inputs.knowledge, measure)
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


def _tensors(images: Tensor, labels: Tensor, knowledge: Knowledge | None) -> list[Tensor]:
    return [images, labels, *(() if knowledge is None else knowledge.tensors())]
