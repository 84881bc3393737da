"""Feature maps as attackers and broken networks make them, drawn by number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
ORDINARY = "ordinary"
BROKEN = ("nan", "inf")


def _spectrum(values: Callable[[random.Random, int], list[float]]) -> Callable[..., Tensor]:
    """Matrices whose singular values are those, between random bases."""

    def make(draw: random.Random, noise: torch.Generator, rows: int, columns: int) -> Tensor:
        m = min(rows, columns)
        kept = values(draw, m)[:m]
        left, right = (
            torch.linalg.qr(torch.randn(side, len(kept), generator=noise, dtype=torch.float64))[0]
            for side in (rows, columns)
        )
        return left * torch.tensor(kept, dtype=torch.float64) @ right.mT

    return make


def _ordinary(_draw: random.Random, noise: torch.Generator, rows: int, columns: int) -> Tensor:
    """As behind a ReLU: positive, a few strong directions and a tail."""
    hidden = torch.randn(rows, 4, generator=noise, dtype=torch.float64)
    mixing = torch.randn(4, columns, generator=noise, dtype=torch.float64)
    rest = torch.randn(rows, columns, generator=noise, dtype=torch.float64)
    return (hidden @ mixing / 2 + 0.5 * rest).relu() + 0.01 * rest.abs()


def _scaled(exponent: Callable[[random.Random], float]) -> Callable[..., Tensor]:
    def make(draw: random.Random, noise: torch.Generator, rows: int, columns: int) -> Tensor:
        return _ordinary(draw, noise, rows, columns) * 10.0 ** exponent(draw)

    return make


def _mixed(draw: random.Random, noise: torch.Generator, rows: int, columns: int) -> Tensor:
    """Every channel in a scale of its own."""
    exponents = torch.empty(columns, dtype=torch.float64).uniform_(-30, 30, generator=noise)
    return _ordinary(draw, noise, rows, columns) * 10.0**exponents


def _dead(draw: random.Random, noise: torch.Generator, rows: int, columns: int) -> Tensor:
    """Most channels zero."""
    alive = torch.rand(columns, generator=noise) < 0.2
    return _ordinary(draw, noise, rows, columns) * alive


def _one_entry(draw: random.Random, _noise: torch.Generator, rows: int, columns: int) -> Tensor:
    matrix = torch.zeros(rows, columns, dtype=torch.float64)
    matrix[draw.randrange(rows), draw.randrange(columns)] = draw.choice((1.0, -3.0, 1e-6))
    return matrix


SAMPLES: dict[str, Callable[..., Tensor]] = {
    ORDINARY: _ordinary,
    "zero": lambda _draw, _noise, rows, columns: torch.zeros(rows, columns, dtype=torch.float64),
    "constant": lambda _draw, _noise, rows, columns: torch.ones(rows, columns, dtype=torch.float64),
    "rank one": _spectrum(lambda _draw, _m: [1.0]),
    "low rank": _spectrum(lambda draw, _m: [1.0 / (i + 1) for i in range(draw.randint(2, 5))]),
    "repeated": _spectrum(lambda draw, m: [1.0] * draw.randint(2, 20) + [0.5] * m),
    "all equal": _spectrum(lambda _draw, m: [1.0] * m),
    "clustered": _spectrum(
        lambda draw, m: [1.0 - i * 10.0 ** -draw.randint(3, 16) for i in range(m)]
    ),
    "vanishing": _spectrum(lambda draw, m: [10.0 ** (-i * draw.randint(1, 8)) for i in range(m)]),
    "slow": _spectrum(lambda _draw, m: [1.0 - 0.5 * i / m for i in range(m)]),
    "dead channels": _dead,
    "one entry": _one_entry,
    "denormal": _scaled(lambda draw: draw.uniform(-45, -38)),
    "tiny": _scaled(lambda draw: draw.uniform(-30, -8)),
    "small": _scaled(lambda draw: draw.uniform(-8, -3)),
    "large": _scaled(lambda draw: draw.uniform(3, 8)),
    "huge": _scaled(lambda draw: draw.uniform(8, 30)),
    "mixed scales": _mixed,
}


def draw_size(draw: random.Random, most: int) -> int:
    """1 to `most`, small sizes as likely as large ones."""
    return min(most, max(1, int(math.exp(draw.uniform(0.0, math.log(most + 1))))))


def sample_kinds(draw: random.Random, batch: int) -> list[str]:
    """One bad sample among ordinary ones, or of each its own kind."""
    names = [name for name in SAMPLES if name != ORDINARY]
    if draw.random() < 0.5:
        kinds = [ORDINARY] * batch
        kinds[draw.randrange(batch)] = draw.choice(names)
        return kinds
    return [draw.choice([ORDINARY, *names]) for _ in range(batch)]


def feature_map(
    draw: random.Random, kinds: list[str], shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """A feature [B, D, H, W], [B, T, D] or [B, D], each sample of its kind.

    Beyond the range of the dtype it is cut to that: infinity is another kind.
    """
    noise = torch.Generator().manual_seed(draw.randrange(2**40))
    columns = shape[0] if len(shape) != 2 else shape[1]
    rows = math.prod(shape) // columns
    limit = torch.finfo(dtype).max / 4
    samples = []
    for kind in kinds:
        matrix = SAMPLES[kind](draw, noise, rows, columns).clamp(-limit, limit).to(dtype)
        samples.append(matrix.mT.reshape(shape) if len(shape) == 3 else matrix.reshape(shape))
    return torch.stack(samples)


def broken(draw: random.Random, feature: Tensor, kind: str) -> Tensor:
    """The feature with a few entries of one sample, or all of them, NaN or infinite."""
    feature = feature.clone()
    value = {"nan": math.nan, "inf": draw.choice((math.inf, -math.inf))}[kind]
    sample = feature[draw.randrange(len(feature))].view(-1)
    if draw.random() < 0.2:
        sample.fill_(value)
    for _ in range(draw.randint(1, 3)):
        sample[draw.randrange(len(sample))] = value
    return feature
