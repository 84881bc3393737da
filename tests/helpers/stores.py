"""Small stores of made-up knowledge, and what belongs in them."""

from dataclasses import replace

import torch

from svdistill.losses import FSPKnowledge, SoftTargetKnowledge, SumKnowledge, SVDKnowledge
from svdistill.store import Manifest, StoreWriter, describe

KINDS = ("svd", "fsp", "soft_target", "sum")


def knowledge(kind="sum", images=50, seed=0):
    """Knowledge as the losses extract it."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(images, *shape, generator=generator)

    svd = SVDKnowledge(
        (100 * numbers(2).abs(), 100 * numbers(2).abs()), (numbers(8, 2), numbers(24, 2))
    )
    soft = SoftTargetKnowledge(numbers(100))
    return {
        "svd": svd,
        "fsp": FSPKnowledge((numbers(8, 24), numbers(24, 5))),
        "soft_target": soft,
        "sum": SumKnowledge((svd, soft)),
    }[kind]


def rows_of(whole, rows):
    return whole.map(lambda tensor: tensor[rows])


def manifest(whole, dtype="float32", **changes):
    """The manifest of a store of this knowledge, two views of each image."""
    usual = Manifest(
        svdistill="0",
        teacher="runs/teacher",
        teacher_sha256="abc",
        teacher_taps=("stage1", "stage2"),
        tap_shapes=((8, 16, 16), (24, 8, 8)),
        data="digits",
        data_fingerprint="def",
        images=len(whole.tensors()[0]),
        class_names=("cat", "dog"),
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        loss="SVDLoss(...)",
        augmentation="paper",
        views=2,
        views_seed=0,
        shard_images=16,
        structure=describe(whole, dtype),
    )
    return replace(usual, **changes)


def write_store(path, views, **changes):
    """A complete store of one knowledge for each view."""
    writer = StoreWriter(path, manifest(views[0], views=len(views), **changes))
    for shard in writer.open(resume=False):
        writer.write(shard, batches(views, shard))
    writer.finish(teacher_accuracy=87.5)
    return writer


def batches(views, shard, size=7):
    """The knowledge of a shard's images in some batches."""
    for start in range(shard.start, shard.stop, size):
        yield rows_of(views[shard.view], slice(start, min(start + size, shard.stop)))


def flipped(content, place):
    """The bytes with one bit of them turned over."""
    damaged = bytearray(content)
    damaged[place] ^= 1 << (place % 8)
    return bytes(damaged)


def snapshot(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}
