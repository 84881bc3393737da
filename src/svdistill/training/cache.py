"""`cache`: compute a teacher's knowledge once, for all later students."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from svdistill.common import require_unlocked
from svdistill.config import OBJECT, CacheConfig
from svdistill.data import ImageData
from svdistill.distillation import FrozenTeacher
from svdistill.losses import Knowledge
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
    stored_manifest,
)
from svdistill.training.images import run_images
from svdistill.training.metrics import EvaluationImages, evaluate_network
from svdistill.training.precision import AUTO, Precision, faster, teacher_works
from svdistill.training.progress import Reporter
from svdistill.training.setup import (
    build_losses,
    choose_device,
    first_images,
    move_data,
    new_teacher,
)
from svdistill.training.step import autocast
from svdistill.training.stopping import StopRequests, explain_machine_errors
from svdistill.training.taps import taps_without_student
from svdistill.training.teacher import NO_ACCURACY


@explain_machine_errors()
def cache_knowledge(
    config: CacheConfig, reporter: Reporter | None = None, *, data: ImageData | None = None
) -> KnowledgeStore:
    """Compute a teacher's knowledge of all training images, and save it in a knowledge store.

    The images are augmented: each of the `views` is one random augmentation of all images. A
    stopped run continues with the option `resume`; it loses at most the shard being written.

    Args:
        config: names teacher, images, loss and output directory; number of views.
        reporter: shows progress; by default nothing is shown.
        data: the images themselves, instead of a name in the configuration.

    Returns:
        The finished knowledge store.

    Raises:
        SVDistillError: a value, the teacher or the data set is invalid; the output directory holds
            something else; the store's dtype cannot hold a number; or memory or disk space failed.
        Stopped: SIGTERM, SIGHUP or Ctrl-C was received. Finished shards are kept.
    """
    config = config if data is None else replace(config, data=OBJECT)
    config.check()
    require_unlocked(Path(config.output))
    stored_manifest(Path(config.output), resume=config.resume)  # raises before images are read
    reporter = reporter or Reporter()
    device = choose_device(config.device)
    data = move_data(run_images(config, reporter, data), device)
    data.train.part(0, len(data.train))  # raises unless the images have a fixed order
    logits = build_losses(config).whole.needs_logits
    teacher = new_teacher(config, data, device, needs_logits=logits)
    extractor = _KnowledgeExtractor(config, teacher.network, data, device)
    extractor.choose_precision(reporter)
    writer = StoreWriter(config.output, extractor.manifest())
    total = len(data.train) * config.views
    with StopRequests() as stops, writer.locked(resume=config.resume) as shards, reporter:
        missing = sum(shard.stop - shard.start for shard in shards)
        reporter.message(f"{writer.manifest.bytes_per_image:,} bytes per image and view")
        reporter.start(writer.path.name, total, total - missing)
        for shard in shards:
            writer.write(shard, extractor.read(shard, reporter, stops))
        accuracy = None
        if teacher.other_classes:
            reporter.message(NO_ACCURACY.format(teacher.other_classes))
        else:
            images = EvaluationImages(data.test, extractor.augmentation)
            accuracy = evaluate_network(
                extractor.teacher, images, device=device, each_batch=stops.check
            ).accuracy
        writer.finish(accuracy)
    return KnowledgeStore(writer.path)


class _KnowledgeExtractor:
    """Runs the teacher on augmented images, and extracts the knowledge that the loss reads."""

    def __init__(
        self, config: CacheConfig, teacher: nn.Module, data: ImageData, device: torch.device
    ) -> None:
        self.config = config
        self.teacher = teacher.eval()
        self.data = data
        self.device = device
        self.images = first_images(data, 2, device)[1]
        self.taps = taps_without_student(config, teacher, self.images)
        self.loss = build_losses(config).whole
        self.frozen = FrozenTeacher(teacher, self.taps, needs_logits=self.loss.needs_logits)
        self.augmentation = data.augmentation(config.augmentation).to(device)

    def choose_precision(self, reporter: Reporter) -> None:
        """Replace the precision `auto` by that of the store to resume, or else the faster one."""
        if self.config.precision != AUTO:
            return
        stored = stored_manifest(Path(self.config.output), resume=self.config.resume)
        if stored is not None:
            bf16 = stored.teacher.endswith(IN_BF16)
            chosen: Precision = "bf16" if bf16 else "float32"
        else:
            images = first_images(self.data, self.config.batch_size, self.device)[1]
            works = teacher_works(self.frozen.run, images.to(memory_format=torch.channels_last))
            chosen = faster("the teacher", works, images, reporter)
        self.config = replace(self.config, precision=chosen)

    @torch.inference_mode()
    def extract(self, images: Tensor) -> Knowledge:
        """Compute the teacher's knowledge of normalised images."""
        with autocast(self.config.precision, self.device):
            recording = self.frozen.run(images.contiguous(memory_format=torch.channels_last))
        knowledge: Knowledge = self.loss.extract(recording.features, recording.output)
        return knowledge

    def read(self, shard: Shard, reporter: Reporter, stops: StopRequests) -> Iterator[Knowledge]:
        """Yield the teacher's knowledge of a shard's images, batch by batch."""
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

    def manifest(self) -> Manifest:
        """Make the store's manifest, trying the teacher on two images to show errors early."""
        config, data = self.config, self.data
        shapes = profile_network(self.teacher, self.images.shape[1:], self.taps).taps
        return Manifest(
            svdistill=version("svdistill"),
            teacher=config.teacher + (IN_BF16 if config.precision == "bf16" else ""),
            teacher_sha256=network_digest(self.teacher),
            teacher_taps=self.taps,
            tap_shapes=tuple(shape for _, shape in shapes),
            data=config.data,
            data_fingerprint=data.fingerprint,
            images=len(data.train),
            class_names=data.class_names,
            image_size=data.image_shape[-1],
            mean=data.mean,
            std=data.std,
            loss=loss_text(self.loss),
            augmentation=config.augmentation,
            views=config.views,
            views_seed=config.views_seed,
            shard_images=SHARD_IMAGES,
            structure=describe(self.extract(self.images), config.dtype),
        )
