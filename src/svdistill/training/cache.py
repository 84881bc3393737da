"""The command that computes a teacher's knowledge once, for all students to come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

import torch
from torch import nn

from svdistill.config import OBJECT, CacheConfig
from svdistill.data import ImageData
from svdistill.distillation import FrozenTeacher
from svdistill.losses import Knowledge, TransferLoss
from svdistill.networks import profile_network
from svdistill.runs import network_digest
from svdistill.store import (
    IN_BF16,
    SHARD_IMAGES,
    KnowledgeStore,
    Manifest,
    Shard,
    StoreWriter,
    describe,
    loss_text,
)
from svdistill.training.images import run_images
from svdistill.training.metrics import evaluate_network
from svdistill.training.progress import Reporter
from svdistill.training.setup import (
    choose_device,
    move_data,
    place_network,
    require_classes,
    two_images,
    whole_loss,
)
from svdistill.training.stages import taps_without_student
from svdistill.training.stopping import StopRequests, trouble_explained
from svdistill.training.teacher import teacher_of


@trouble_explained()
def cache_knowledge(
    config: CacheConfig, reporter: Reporter | None = None, *, data: ImageData | None = None
) -> KnowledgeStore:
    """Compute a teacher's knowledge of views of all training images, and keep it on disk.

    A run that was stopped goes on with `resume`; at most one shard of work is lost.

    Args:
        config: which teacher, images, views and loss, and where to.
        reporter: what a person sees; nothing by default.
        data: the images themselves, instead of a name in the configuration.

    Returns:
        The store.

    Raises:
        SVDistillError: a bad value, teacher or data set; a folder that holds something else; a
            number that does not fit the store's dtype; a machine without the memory or disk.
        Stopped: SIGTERM or Ctrl-C came; whole shards are kept.
    """
    config = config if data is None else replace(config, data=OBJECT)
    config.check()
    reporter = reporter or Reporter()
    device = choose_device(config.device)
    data = move_data(run_images(config, reporter, data), device)
    data.train.part(0, len(data.train))  # raises where nothing says which image is which
    teacher = teacher_of(config, data)
    place_network(teacher, device)
    _, images = two_images(data, device)
    require_classes("teacher", teacher, images, data.num_classes)
    taps = taps_without_student(config, teacher, images)
    scholar = _Scholar(config, teacher, whole_loss(config), taps, data, device)
    manifest = _manifest(config, scholar, taps, data, images)
    writer = StoreWriter(config.output, manifest)
    total = len(data.train) * config.views
    with StopRequests() as stops, writer.locked(resume=config.resume) as shards, reporter:
        missing = sum(shard.stop - shard.start for shard in shards)
        reporter.message(f"{manifest.bytes_per_image:,} bytes per image and view")
        reporter.start(writer.path.name, total, total - missing)
        for shard in shards:
            writer.write(shard, scholar.read(shard, reporter, stops))
        accuracy = evaluate_network(
            teacher, data.test, scholar.augmentation, device=device, each_batch=stops.check
        ).accuracy
        writer.finish(accuracy)
    return KnowledgeStore(writer.path)


class _Scholar:
    """Runs the teacher on views, and keeps what the loss wants to know."""

    def __init__(
        self,
        config: CacheConfig,
        teacher: nn.Module,
        loss: TransferLoss,
        taps: tuple[str, ...],
        data: ImageData,
        device: torch.device,
    ) -> None:
        self.config = config
        self.teacher = teacher.eval()
        self.loss = loss
        self.frozen = FrozenTeacher(teacher, taps, needs_logits=loss.needs_logits)
        self.data = data
        self.device = device
        self.augmentation = data.augmentation(config.augmentation).to(device)

    @torch.inference_mode()
    def extract(self, images: torch.Tensor) -> Knowledge:
        """The knowledge of normalised images."""
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            recording = self.frozen.run(images.contiguous(memory_format=torch.channels_last))
        knowledge: Knowledge = self.loss.extract(recording.features, recording.output)
        return knowledge

    def read(self, shard: Shard, reporter: Reporter, stops: StopRequests) -> Iterator[Knowledge]:
        """The knowledge of a shard's images, in batches."""
        part = self.data.train.part(shard.start, shard.stop)
        for batch in part.batches(self.config.batch_size, device=self.device, order_seed=None):
            views = self.augmentation(
                batch.images,
                seed=self.config.views_seed,
                indices=batch.indices + shard.start,
                view=shard.view,
            )
            yield self.extract(views)
            reporter.advance(len(views))
            stops.check(f"in view {shard.view + 1} of {self.config.views}")


def _manifest(
    config: CacheConfig,
    scholar: _Scholar,
    taps: tuple[str, ...],
    data: ImageData,
    images: torch.Tensor,
) -> Manifest:
    """Of the store to write, from some images: whatever does not fit shows before that."""
    shapes = profile_network(scholar.teacher, images.shape[1:], taps).taps
    return Manifest(
        svdistill=version("svdistill"),
        teacher=config.teacher + (IN_BF16 if config.precision == "bf16" else ""),
        teacher_sha256=network_digest(scholar.teacher),
        teacher_taps=taps,
        tap_shapes=tuple(shape for _, shape in shapes),
        data=config.data,
        data_fingerprint=data.fingerprint,
        images=len(data.train),
        class_names=data.class_names,
        image_size=data.image_shape[-1],
        mean=data.mean,
        std=data.std,
        loss=loss_text(scholar.loss),
        augmentation=config.augmentation,
        views=config.views,
        views_seed=config.views_seed,
        shard_images=SHARD_IMAGES,
        structure=describe(scholar.extract(images), config.dtype),
    )
