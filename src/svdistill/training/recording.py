"""Work on a GPU, recorded once and then started by the host in one go: CUDA graphs.

The step of a small network is some hundreds of kernels, which take longer to start one by one than
to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from svdistill.linalg import rehearsal

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
        with torch.cuda.stream(self.stream), rehearsal():
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
