"""The global random states of torch, NumPy and Python, set for a while and set back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class RandomStates:
    """Random states that somebody else's code draws from, without a trace outside.

    Args:
        seed: 0 or more, below 2^63.

    Example:
        >>> states, again = RandomStates(seed=7), RandomStates(seed=7)
        >>> with states.lent():
        ...     first = torch.rand(3)
        >>> with states.lent():
        ...     second = torch.rand(3)
        >>> with again.lent():
        ...     both = torch.rand(6)
        >>> torch.equal(torch.cat([first, second]), both)
        True
    """

    def __init__(self, seed: int) -> None:
        self._states = (
            torch.Generator().manual_seed(seed).get_state(),
            np.random.RandomState(seed % 2**32).get_state(),
            random.Random(seed).getstate(),
        )

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Be the global states within the block; what is drawn there goes on in the next one."""
        outside = global_states()
        set_global_states(self._states)
        try:
            yield
        finally:
            self._states = global_states()
            set_global_states(outside)


def seed_global_states(seed: int) -> None:
    """Seed torch on every device, NumPy and Python, for whatever a network draws from.

    Args:
        seed: 0 or more, below 2^63.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def global_states() -> tuple:
    """The states of torch on the CPU, of NumPy and of Python."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def set_global_states(states: tuple) -> None:
    """What `global_states` returned becomes the states again."""
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
