import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from svdistill.data.augmentation import stream, uniform

WORDS = st.integers(0, 2**64 - 1)


def splitmix64(state, places):
    """Vigna's splitmix64.c, with Python's integers: the word after each place of the sequence."""
    words = []
    for _ in range(places):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = state
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        words.append(word ^ (word >> 31))
    return words


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def test_known_words():
    """The first words from the state 1234567, as published for implementations to compare with."""
    words = stream(torch.tensor([1234567]), torch.arange(5))
    assert [word % 2**64 for word in words.tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(WORDS)
def test_every_state_gives_the_sequence_of_the_reference(state):
    words = stream(torch.tensor([signed(state)]), torch.arange(4))
    assert [word % 2**64 for word in words.tolist()] == splitmix64(state, 4)


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.integers(0, 2**62))
def test_uniform_is_a_chain_of_sequences(seed, view, index):
    """Seed, view, image and draw, each a place in a sequence that starts where the last ended."""
    golden = 0x9E3779B97F4A7C15
    [state] = splitmix64(seed, 1)
    [state] = splitmix64((state + view * golden) % 2**64, 1)
    [state] = splitmix64((state + index * golden) % 2**64, 1)
    expected = [(word >> 11) / 2**53 for word in splitmix64(state, 3)]
    assert uniform(seed, view, torch.tensor([index]), 3).tolist() == [expected]


def draws(kind):
    """Many numbers in [0, 1), neighbours in one of the four counters."""
    if kind == "images":
        return uniform(0, 0, torch.arange(100_000), 1)[:, 0].numpy()
    if kind == "draws":
        return uniform(0, 0, torch.tensor([5]), 100_000)[0].numpy()
    if kind == "views":
        return np.array([uniform(0, view, torch.tensor([5]), 1).item() for view in range(20_000)])
    return np.array([uniform(seed, 0, torch.tensor([5]), 1).item() for seed in range(20_000)])


@pytest.mark.parametrize("kind", ["images", "draws", "views", "seeds"])
def test_numbers_look_uniform_and_independent(kind):
    numbers = draws(kind)
    count = len(numbers)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Chi-squared of 100 bins: mean 99, deviation 14; of 400 cells of neighbours: 399 and 28.
    bins = np.histogram(numbers, 100, (0, 1))[0]
    assert abs(((bins - count / 100) ** 2).sum() / (count / 100) - 99) < 5 * 14.1
    for lag in (1, 2, 128):
        cells = np.histogram2d(numbers[:-lag], numbers[lag:], 20, [(0, 1), (0, 1)])[0]
        expected = (count - lag) / 400
        assert abs(((cells - expected) ** 2).sum() / expected - 399) < 5 * 28.3
        correlation = np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]
        assert abs(correlation) < 5 / math.sqrt(count)


def test_an_image_draws_independent_numbers():
    correlation = np.corrcoef(uniform(1, 2, torch.arange(50_000), 4).numpy().T)
    assert abs(correlation - np.eye(4)).max() < 5 / math.sqrt(50_000)


def test_swapped_counters_give_other_numbers():
    """A seed and a view, or a view and an image, that change places are another place."""
    numbers = {
        uniform(seed, view, torch.tensor([image]), 1).item()
        for seed in range(10)
        for view in range(10)
        for image in range(10)
    }
    assert len(numbers) == 1000


def test_nothing_for_no_images():
    assert uniform(0, 0, torch.arange(0), 4).shape == (0, 4)
