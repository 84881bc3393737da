"""Random numbers for views: a function of seed, image and view, and the states of all generators.

A batch draws all its numbers at once, on any device, and an image draws the same ones in whatever
batch it comes.

Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014
(SplitMix64); the constants are those of Vigna's https://prng.di.unimi.it/splitmix64.c.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor

WORD: Final = (1 << 64) - 1

# The golden ratio's fraction, odd: counting in steps of it visits every 64-bit word once.
STEP: Final = 0x9E3779B97F4A7C15

FIRST_FACTOR: Final = 0xBF58476D1CE4E5B9

SECOND_FACTOR: Final = 0x94D049BB133111EB


def uniform(seed: int, view: int, indices: Tensor, count: int) -> Tensor:
    """Uniform random numbers for each image of a batch.

    Args:
        seed: 0 or more.
        view: 0 or more.
        indices: ``[B]``, int64: the images' numbers.
        count: numbers per image.

    Returns:
        ``[B, count]``, float64 in [0, 1), on the device of the indices; the same on every device.

    Example:
        >>> first = uniform(0, 3, torch.tensor([7, 8, 9]), 2)
        >>> torch.equal(first[2], uniform(0, 3, torch.tensor([9]), 2)[0])
        True
    """
    # Python's integers mix seed and view, so that one word is all that goes to the device.
    key = torch.full((1,), _signed(_mix_word(_mix_word(seed) + view * STEP)), device=indices.device)
    places = torch.arange(count, device=indices.device)
    words = stream(stream(key, indices)[:, None], places)
    return _shift(words, 11).double() * 2.0**-53


def stream(states: Tensor, places: Tensor) -> Tensor:
    """The words that SplitMix64 gives at these places of its sequence from these states.

    Args:
        states: int64, read as unsigned words.
        places: int64, from 0; the two broadcast.

    Returns:
        int64 words of 64 random bits.

    Example:
        >>> words = stream(torch.tensor([1234567]), torch.arange(2))
        >>> [word % 2**64 for word in words.tolist()]
        [6457827717110365317, 3203168211198807973]
    """
    # int64 wraps around where an unsigned word would: the bits are the same.
    words = states + (places + 1) * _signed(STEP)
    words = (words ^ _shift(words, 30)) * _signed(FIRST_FACTOR)
    words = (words ^ _shift(words, 27)) * _signed(SECOND_FACTOR)
    return words ^ _shift(words, 31)


def _shift(words: Tensor, bits: int) -> Tensor:
    """Shift to the right as unsigned words do; int64 would drag the sign along."""
    return (words >> bits) & (WORD >> bits)


def _mix_word(word: int) -> int:
    """`stream` at place 0, for one of Python's integers."""
    word = (word + STEP) & WORD
    word = ((word ^ (word >> 30)) * FIRST_FACTOR) & WORD
    word = ((word ^ (word >> 27)) * SECOND_FACTOR) & WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    """The int64 with the same bits."""
    word &= WORD
    return word - (1 << 64) if word >> 63 else word


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
