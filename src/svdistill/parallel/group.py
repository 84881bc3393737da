"""The group of processes that train one network, and the part of a batch that each takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from svdistill.common import (
    ArgumentError,
    RunError,
    SVDistillError,
    launched_rank,
    launched_size,
)


class BatchPart(NamedTuple):
    """A process's part of a batch, and the factors on its losses.

    Each process scales its losses so that their mean over the processes is the loss of the whole
    batch. If a process takes its images in several parts, their scaled losses add up to its loss.

    Attributes:
        images: number of images in the whole batch.
        labelled: number of images in the whole batch that have a label; a scalar tensor where
            reading the number would synchronise with the device.
        processes: number of processes that share the batch.
        stand_in: whether this process only runs a copy of another process's image, because there
            are fewer images than processes; its losses are multiplied by zero.
        more: whether other parts of this process's images follow before the optimizer's step.
    """

    images: int
    labelled: int | Tensor
    processes: int
    stand_in: bool = False
    more: bool = False

    def of_sum(self) -> float:
        """The factor on a loss that is a sum over this part's images."""
        return 0.0 if self.stand_in else float(self.processes)

    def of_mean(self, here: int) -> float:
        """The factor on a loss that is a mean over this part's images, `here` in number."""
        return self.of_sum() * here / self.images

    def of_labelled(self) -> float | Tensor:
        """The factor on a loss that is a sum over this part's labelled images."""
        if isinstance(self.labelled, Tensor):
            return self.of_sum() / self.labelled.clamp(min=1)
        return self.of_sum() / max(self.labelled, 1)


@dataclass(frozen=True)
class Share:
    """Selects a process's images: from index `rank` on, every `size`-th image of a batch.

    The parts of two processes differ by at most one image, and by at most one labelled image.

    Attributes:
        rank: the process's rank, from 0.
        size: the number of processes.
    """

    rank: int = 0
    size: int = 1

    def take(self, batch: Tensor) -> Tensor:
        """The process's entries of a tensor that has one entry per image; at least one entry."""
        if self.size == 1:
            return batch
        return batch[self.rank :: self.size] if self.rank < len(batch) else batch[:1]

    def part(self, images: int, labelled: int) -> BatchPart | None:
        """The process's part of a batch with these numbers of images; None for one process."""
        if self.size == 1:
            return None
        return BatchPart(images, labelled, self.size, stand_in=self.rank >= images)


ALONE: Final = Share()


def require_launched() -> None:
    """Raise `ArgumentError` if `accelerate launch --cpu` started one process instead of several."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "yes", "1")
    if on_cpu and "MASTER_ADDR" in os.environ and launched_size() == 1:
        raise ArgumentError(
            "num_processes",
            expected="a launcher that starts several processes",
            got="`accelerate launch --cpu`, which starts one unless it has MPI's hostfile",
            remedy="on CPUs use `torchrun --nproc_per_node N -m svdistill ...`",
        )


def require_alone(command: str) -> None:
    """Raise `ArgumentError` if a command for one process was started in several."""
    if launched_size() > 1:
        raise ArgumentError(
            "num_processes",
            expected=f"1 for `svdistill {command}`",
            got=launched_size(),
            remedy="start it without a launcher; `train` and `distill` run in several processes",
        )


# When a process dies, its connections close, and the other processes raise an error at once. If a
# process hangs, they raise it after this time. (Accelerate does not pass on a timeout of ten
# minutes, which it takes for its own default.)
TIMEOUT: Final = timedelta(minutes=15)


Result = TypeVar("Result")


def is_grouped() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_grouped() else 1


def rank() -> int:
    """The rank of this process, from 0; before it joins the group, the rank set by the launcher."""
    return dist.get_rank() if is_grouped() else launched_rank()


def is_main() -> bool:
    """Whether this is the process that writes, prints and logs."""
    return rank() == 0


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`, of which each process holds a shard.

    It looks at the tensor's attributes, without importing `torch.distributed.tensor`.
    """
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def own_share() -> Share:
    """The share of every batch that this process takes."""
    return Share(rank(), size()) if is_grouped() else ALONE


def sum_over(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes, in place; the result is bit for bit equal in all of them."""
    if is_grouped():
        with _answers():
            dist.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor) -> list[Tensor]:
    """Gather a tensor of the same shape from every process, in the order of their ranks."""
    if not is_grouped():
        return [tensor]
    gathered = [torch.empty_like(tensor) for _ in range(size())]
    with _answers():
        dist.all_gather(gathered, tensor)
    return gathered


def gather_values(value: Any) -> list[Any]:
    """Gather a value that can be pickled from every process, in the order of their ranks."""
    if not is_grouped():
        return [value]
    gathered: list[Any] = [None] * size()
    with _answers():
        dist.all_gather_object(gathered, value)
    return gathered


def together(work: Callable[[], Result]) -> Result:
    """Call `work` in every process; if it fails in one, raise an error in every process.

    So no process waits for one that has ended. All raise the error of the failed process with the
    lowest rank. Exceptions other than `SVDistillError` are raised in their own process alone.
    """
    if not is_grouped():
        return work()
    result, failure = None, None
    try:
        result = work()
    except SVDistillError as error:
        failure = error
    for number, failed in enumerate(gather_values(failure)):
        if failed is not None:
            raised: SVDistillError = failure if failure and number == rank() else failed
            raised.everywhere = True
            raise raised
    return result  # type: ignore[return-value]


def meet() -> None:
    """Wait until all processes have reached this point."""
    together(lambda: None)


def in_main(work: Callable[[], object]) -> None:
    """Call `work` in rank 0 while the other processes wait; its error is raised in all of them."""
    together(work if is_main() else lambda: None)


def require_alike(facts: Mapping[str, object]) -> None:
    """Raise `RunError` in every process unless all processes give the same facts, as texts."""
    if not is_grouped():
        return
    texts = {name: str(value) for name, value in facts.items()}
    first, *others = gather_values(texts)
    for number, other in enumerate(others, start=1):
        for name in first:
            if other.get(name) != first[name]:
                error = RunError(
                    name,
                    expected="the same in all processes that train together, "
                    f"{_short(first[name])} as in process 0",
                    got=f"{_short(str(other.get(name)))} in process {number}",
                    remedy="start all with one command, on the same files",
                )
                error.everywhere = True
                raise error


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors of every process with those of rank 0."""
    if not is_grouped():
        return
    with torch.no_grad(), _answers():
        for tensor in tensors:
            sent = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(sent, src=0)
            if not is_main():
                tensor.copy_(sent)


def close_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _answers() -> Iterator[None]:
    """Turn an error of communication with another process into a `RunError`."""
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's for a closed connection or a timeout
        raise RunError(
            f"process {rank()}",
            expected="an answer of every other process",
            got=" ".join(str(error).split())[:200],
            remedy="look for the first error of another one, then go on with --resume",
        ) from error


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
