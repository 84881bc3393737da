"""Feature maps for the tests of the losses: two networks, same taps, different images of them."""

import torch

# Channels, height, width of each tap: 48 positions by 6 channels, then 12 by 5, then 12 by 20.
# No map is square, and the last has more channels than positions.
SHAPES = [(6, 8, 6), (5, 4, 3), (20, 4, 3)]
SMALL_SHAPES = [(3, 4, 2), (8, 3, 1)]
CLASSES = 7


def maps(seed, batch=3, shapes=SHAPES, dtype=torch.float64):
    """One feature map per shape, positive like those behind a ReLU but with no exact zeros."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(batch, *shape, generator=generator, dtype=torch.float64).square().to(dtype)
        for shape in shapes
    ]


def logits(seed, batch=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1000 + seed)
    return 3 * torch.randn(batch, CLASSES, generator=generator, dtype=torch.float64).to(dtype)
