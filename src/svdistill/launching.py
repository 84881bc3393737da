"""What a launcher such as torchrun has told this process: how many there are, and which it is.

Asked before torch is imported, and before the processes have met.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from svdistill.errors import ArgumentError

# Of torchrun and SLURM's wrappers of it, then of MPI's launchers.
SIZES: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS: Final = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def launched_size() -> int:
    """The number of processes that were started together; 1 where nothing says so."""
    return _number(SIZES, 1)


def launched_rank() -> int:
    """Number of this process among them, from 0."""
    return _number(RANKS, 0) if launched_size() > 1 else 0


def require_launched() -> None:
    """Raise `ArgumentError` where a launcher was asked for several processes and started one."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "yes", "1")
    if on_cpu and "MASTER_ADDR" in os.environ and launched_size() == 1:
        raise ArgumentError(
            "num_processes",
            expected="a launcher that starts several processes",
            got="`accelerate launch --cpu`, which starts one unless it has MPI's hostfile",
            remedy="on CPUs use `torchrun --nproc_per_node N -m svdistill ...`",
        )


def require_alone(command: str) -> None:
    """Raise `ArgumentError` where a command was started several times that only one may run."""
    if launched_size() > 1:
        raise ArgumentError(
            "num_processes",
            expected=f"1 for `svdistill {command}`",
            got=launched_size(),
            remedy="start it without a launcher; `train` and `distill` run in several processes",
        )


def _number(variables: Sequence[str], default: int) -> int:
    """What the first of these environment variables says that is there."""
    texts = (os.environ.get(variable, "") for variable in variables)
    return next((int(text) for text in texts if text.isdecimal()), default)
