"""One small good file of each kind that svdistill reads, and the function that reads it."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn

from svdistill.cli.parsers import build_parser
from svdistill.common import write_json
from svdistill.config import DistillConfig
from svdistill.data import load_images
from svdistill.data.image_files import EncodedPictures, table_of_files
from svdistill.losses import SVDKnowledge
from svdistill.networks import build_network
from svdistill.runs import RunSummary
from svdistill.runs.checkpoint import Checkpoint, TrainingPosition, load_checkpoint, save_checkpoint
from svdistill.runs.directory import stored_values, to_yaml
from svdistill.runs.records import (
    EpochRecord,
    environment,
    read_environment,
    read_records,
    read_summary,
)
from svdistill.runs.weights import WeightsCard, load_student, save_weights
from svdistill.store import KnowledgeStore, Manifest, StoreWriter, describe
from svdistill.store.manifest import read_manifest
from svdistill.training import BeforeAfter, NetworkFigures, read_before_after
from svdistill.training.teacher import fill_network

CLASSES = 3
CARD = WeightsCard(
    "mobilenet_student", 0.05, ("zero", "one", "two"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 16
)
IMAGE_FORMATS = ("png", "jpeg", "gif", "tiff", "bmp", "webp")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: write a good one to the path, with what belongs beside it.
        read: read it with the library's own function; what comes back is compared as text.
        name: of the file.
        checksum: whether the library can tell that a bit has flipped.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    name: str
    checksum: bool = False


def network() -> nn.Module:
    """A small one of the library's own."""
    torch.manual_seed(0)
    return build_network(CARD.network, CLASSES, CARD.width).eval()


def meaning(value: object) -> str:
    """What a reader returned as a text that is equal where it says the same."""
    if isinstance(value, nn.Module):
        return meaning(value.state_dict())
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.flatten().tolist()}"
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.tobytes().hex()}"
    if isinstance(value, dict):
        return str([(str(name), meaning(item)) for name, item in value.items()])
    if isinstance(value, (list, tuple)):
        return str([meaning(item) for item in value])
    return repr(value)


def _fill(path: Path) -> nn.Module:
    filled = network()
    fill_network(filled, path, CLASSES)
    return filled


def _config() -> DistillConfig:
    return DistillConfig(output="runs/student", teacher="runs/teacher", student_taps=["stage1"])


def _options(path: Path) -> object:
    parser = build_parser("distill")
    options = parser.parse_args(["distill", "--output", "runs/student", "--config", str(path)])
    return sorted((name, repr(value)) for name, value in options["distill"].items())


def _write_options(path: Path) -> None:
    path.write_text("network: vgg_student\nepochs: 3\nstudent_taps: [stage1, stage2]\n")


def _knowledge() -> SVDKnowledge:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20, 2, generator=generator)
    return SVDKnowledge((values,), (torch.rand(20, 8, 2, generator=generator),))


def _write_store(path: Path) -> None:
    """A store in the folder of the path: its manifest and one shard."""
    knowledge = _knowledge()
    manifest = Manifest(
        svdistill="0",
        teacher="runs/teacher",
        teacher_sha256="abc",
        teacher_taps=("stage1", "stage2"),
        tap_shapes=((4, 8, 8), (8, 4, 4)),
        data="digits",
        data_fingerprint="def",
        images=20,
        class_names=CARD.class_names,
        image_size=16,
        mean=CARD.mean,
        std=CARD.std,
        loss="SVDLoss()",
        augmentation="none",
        views=1,
        views_seed=0,
        shard_images=20,
        structure=describe(knowledge, "float32"),
    )
    writer = StoreWriter(path.parent, manifest)
    for shard in writer.open(resume=False):
        writer.write(shard, [knowledge])
    writer.finish(50.0)


def _read_store(path: Path) -> object:
    return KnowledgeStore(path.parent).read(torch.arange(20), 0).tensors()


def _summary() -> RunSummary:
    return RunSummary(
        directory="runs/student",
        kind="distill",
        network="vgg_student",
        width=1.0,
        loss="svd",
        seed=0,
        last_accuracy=50.0,
        best_accuracy=51.0,
        best_epoch=1,
        best_by="dev",
        teacher_accuracy=60.0,
        parameters=100,
        flops=200,
        epochs=2,
        seconds=1.0,
        num_classes=CLASSES,
        image_size=16,
    )


def _records() -> list[EpochRecord]:
    first = EpochRecord(
        *("both", 0, 0.1, 1.0, 0.5, 50.0, None, 50.0, 1.0, 1.0, 2.0, 1.5, 100.0, 1.0),
        svd_close=0.0,
    )
    return [first, replace(first, epoch=1, test_accuracy=60.0)]


def _json(value: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(value, indent=1))


def _figures() -> BeforeAfter:
    figures = NetworkFigures(50.0, 100, 200, 400, 1.5)
    return BeforeAfter(100, 1, figures, figures, figures)


def _checkpoint(path: Path) -> None:
    states: dict[str, dict[str, Any]] = {"network": {"weight": torch.arange(64.0)}}
    save_checkpoint(path, Checkpoint(TrainingPosition(epoch=3, total=3), states, {"steps": 7}))


def _pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def _image(file_format: str) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(_pixels(0)).save(path, file_format)


def _read_image(path: Path) -> object:
    table = table_of_files([path], [0], ["a"])
    return EncodedPictures(table, "image", "images", 12).read(np.array([0]))


def _encoded(seed: int) -> dict[str, object]:
    file = io.BytesIO()
    Image.fromarray(_pixels(seed)).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def _parquet(path: Path) -> None:
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(CARD.class_names))
    )
    columns = {"image": [_encoded(n) for n in range(15)], "label": [n % 3 for n in range(15)]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


def _read_parquet(path: Path) -> object:
    # A new cache for each: a copy of an earlier mutation must not be taken for this one.
    with tempfile.TemporaryDirectory() as cache, datasets_cache(Path(cache)):
        data = load_images(f"parquet:{path}", image_size=12)
    return (data.fingerprint, data.class_names, data.mean, data.std)


@contextmanager
def datasets_cache(folder: Path) -> Iterator[None]:
    """Let `datasets` keep what it makes of Parquet files in this folder."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before


KINDS: dict[str, Kind] = {
    "weights with a card": Kind(
        lambda path: save_weights(path, network(), CARD),
        load_student,
        "student.safetensors",
        checksum=True,
    ),
    "weights of torch.save": Kind(
        lambda path: torch.save(network().state_dict(), path), _fill, "weights.pt"
    ),
    "checkpoint": Kind(
        _checkpoint,
        lambda path: load_checkpoint(path, torch.device("cpu")),
        "checkpoint.pt",
        checksum=True,
    ),
    "config.yaml": Kind(lambda path: path.write_text(to_yaml(_config())), stored_values, "a.yaml"),
    "--config": Kind(_write_options, _options, "options.yaml"),
    "manifest of a store": Kind(_write_store, read_manifest, "manifest.json", checksum=True),
    "shard of a store": Kind(
        _write_store, _read_store, "view-0000-from-000000000.bin", checksum=True
    ),
    "summary.json": Kind(
        _json(asdict(_summary())),
        lambda path: replace(read_summary(path.parent), directory=""),
        "summary.json",
    ),
    "metrics.jsonl": Kind(
        lambda path: path.write_text("".join(json.dumps(asdict(r)) + "\n" for r in _records())),
        lambda path: read_records(path.parent),
        "metrics.jsonl",
    ),
    "environment.json": Kind(_json(environment()), read_environment, "environment.json"),
    "before_after.json": Kind(
        lambda path: write_json(path, asdict(_figures())),
        lambda path: read_before_after(path.parent),
        "before_after.json",
    ),
    "Parquet": Kind(_parquet, _read_parquet, "train.parquet"),
    **{name: Kind(_image(name), _read_image, f"image.{name}") for name in IMAGE_FORMATS},
}
