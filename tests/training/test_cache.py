import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svdistill.common.errors import ArgumentError, RunError
from svdistill.config import CacheConfig, DistillConfig
from svdistill.data import Augmentation, load_images
from svdistill.losses import FSPKnowledge, SoftTargetKnowledge, SumKnowledge, SVDKnowledge, SVDLoss
from svdistill.runs import load_student
from svdistill.runs.records import read_records, read_summary
from svdistill.store import KnowledgeStore
from svdistill.taps import FeatureTaps
from svdistill.training import cache as cache_module, cache_knowledge, distill, train
from svdistill.training.progress import Reporter
from tiny_runs import (
    TINY,
    KillAfter,
    Killed,
    Watching,
    distill_config,
    outcome,
    snapshot,
    train_config,
    weights,
)

DATA = {"data": "digits", "train_size": 200}
KNOWLEDGE = {
    "svd": SVDKnowledge,
    "fsp": FSPKnowledge,
    "soft_target": SoftTargetKnowledge,
    "svd+soft_target": SumKnowledge,
}


def cache_config(output, teacher, **changes):
    usual = {**DATA, "augmentation": "paper", "views": 2, "dtype": "float32", "batch_size": 50}
    usual["loss"] = "svd"
    return CacheConfig(output=str(output), teacher=str(teacher), **{**usual, **changes})


def stored_config(output, store, **changes):
    """A student's run from a store."""
    fields = {**TINY, "augmentation": "paper", "loss": "svd", **changes}
    return DistillConfig(output=str(output), knowledge=str(store), **fields)


@pytest.fixture(scope="module")
def store(tmp_path_factory, teacher_run):
    """A store of singular vectors, to be looked at and never changed."""
    path = tmp_path_factory.mktemp("stores") / "store"
    cache_knowledge(cache_config(path, teacher_run))
    return path


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(cache_module, "SHARD_IMAGES", 64)


class KillAtImages(Reporter):
    """Ends a run after so many images."""

    def __init__(self, images):
        self.left = images

    def advance(self, images):
        self.left -= images
        if self.left <= 0:
            raise Killed


@pytest.mark.parametrize(
    ("loss", "network"),
    [*((loss, "mobilenet_student") for loss in KNOWLEDGE), ("svd", "vgg_student")],
)
def test_a_store_teaches_as_its_teacher_does(tmp_path, teacher_run, loss, network):
    """Random views, dropout (VGG) and batch norm (MobileNet); of the SVD alone fifty steps."""
    teacher = teacher_run
    if network == "vgg_student":
        teacher = vgg_teacher(tmp_path / "teacher")
    fields = {"loss": loss, "network": network, "learning_rate": 0.003}
    # Both views, and each of them twice in the fifty steps.
    fields |= {"epochs": 4 if loss == "svd" else 2, "batch_size": 16}
    fields |= {"width": 0.1 if network == "mobilenet_student" else 0.05, "augmentation": "paper"}
    views = {"views": 2, "views_seed": 5}
    distill(distill_config(tmp_path / "live", teacher, **fields, **views))
    store = cache_knowledge(cache_config(tmp_path / "store", teacher, loss=loss, **views))
    assert isinstance(store.read(torch.arange(3), 0), KNOWLEDGE[loss])
    distill(stored_config(tmp_path / "stored", tmp_path / "store", **fields))
    live, stored = (read_records(tmp_path / name) for name in ("live", "stored"))
    assert len(stored) * 13 >= (50 if loss == "svd" else 26)
    for one, other in zip(live, stored, strict=True):
        assert other.transfer_loss == pytest.approx(one.transfer_loss, rel=1e-4)
    expected, found = weights(tmp_path / "live"), weights(tmp_path / "stored")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5, msg=name)


def vgg_teacher(output):
    train(train_config(output, network="vgg_student", width=0.05, epochs=1))
    return output


def test_other_views_teach_something_else(tmp_path, store, teacher_run):
    """Or the test above would prove little."""
    distill(stored_config(tmp_path / "longer", store, epochs=3))
    for name, changes in {"other": {"views_seed": 1}, "new": {"views": 0}}.items():
        views = {"views": 2, "views_seed": 0, "augmentation": "paper", **changes}
        distill(distill_config(tmp_path / name, teacher_run, **views, epochs=3))
    found = [weights(tmp_path / name)["stem.0.weight"] for name in ("longer", "other", "new")]
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    assert not torch.allclose(found[0], found[2], atol=1e-4)


def test_the_teacher_is_not_needed(tmp_path, teacher_run):
    teacher = tmp_path / "teacher"
    shutil.copytree(teacher_run, teacher)
    cache_knowledge(cache_config(tmp_path / "store", teacher))
    shutil.rmtree(teacher)
    summary = distill(stored_config(tmp_path / "run", tmp_path / "store"))
    assert summary.teacher_accuracy == read_summary(teacher_run).last_accuracy
    assert (summary.kind, summary.loss) == ("distill", "svd")


def test_a_run_from_a_store_resumes(tmp_path, store):
    distill(stored_config(tmp_path / "whole", store, epochs=3))
    with pytest.raises(Killed):
        distill(stored_config(tmp_path / "killed", store, epochs=3), KillAfter(1))
    distill(stored_config(tmp_path / "killed", store, epochs=3, resume=True))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_two_stages(tmp_path, store, teacher_run):
    stages = {"transfer_epochs": 2, "epochs": 1}
    distill(stored_config(tmp_path / "stored", store, **stages))
    views = {"views": 2, "views_seed": 0, "augmentation": "paper"}
    distill(distill_config(tmp_path / "live", teacher_run, **views, **stages))
    expected, found = weights(tmp_path / "live"), weights(tmp_path / "stored")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def rich_store(tmp_path_factory, teacher_run):
    """More vectors than the last map has, beside the logits; options that are no knowledge's."""
    path = tmp_path_factory.mktemp("stores") / "rich"
    options = {"num_vectors": 16, "beta": 2.0, "gradient": "poster", "temperature": 2.0}
    cache_knowledge(cache_config(path, teacher_run, loss="svd+soft_target", **options))
    return path


@pytest.mark.parametrize(
    "needs",
    [
        {"loss": "svd", "num_vectors": 3, "beta": 4.0},
        {"loss": "soft_target"},
        {"loss": "svd+soft_target", "num_vectors": 16, "soft_target_weight": 0.5},
    ],
    ids=str,
)
def test_a_store_teaches_every_loss_that_needs_less(tmp_path, rich_store, teacher_run, needs):
    options = {"augmentation": "paper", "learning_rate": 0.003, "epochs": 1, **needs}
    views = {"views": 2, "views_seed": 0}
    distill(distill_config(tmp_path / "live", teacher_run, **views, **options))
    distill(stored_config(tmp_path / "stored", rich_store, **options))
    live, stored = (read_records(tmp_path / name) for name in ("live", "stored"))
    for one, other in zip(live, stored, strict=True):
        assert other.transfer_loss == pytest.approx(one.transfer_loss, rel=1e-3)
        assert other.task_loss == pytest.approx(one.task_loss, rel=1e-3)


def test_a_rich_store_keeps_no_more_than_the_maps_have(rich_store):
    known = KnowledgeStore(rich_store).read(torch.arange(3), 0).parts[0]
    assert [tuple(values.shape) for values in known.singular_values] == [(3, 16)] * 4
    # The last of the four maps has 2x2 positions.
    shapes = [(3, 12, 12), (3, 24, 16), (3, 52, 16), (3, 104, 4)]
    assert [tuple(vectors.shape) for vectors in known.right_vectors] == shapes


def test_half_precision_is_near(tmp_path, store, teacher_run):
    found = cache_knowledge(cache_config(tmp_path / "half", teacher_run, dtype="float16"))
    whole = KnowledgeStore(store)
    # Four singular values, and vectors of 12, 24, 52 and 104 channels: the 12 stay float32.
    assert whole.bytes_per_image == 4 * (4 + 12 + 24 + 52 + 104)
    assert found.bytes_per_image == 4 * (4 + 12) + 2 * (24 + 52 + 104)
    rows = torch.arange(200)
    for half, single in zip(
        found.read(rows, 1).tensors(), whole.read(rows, 1).tensors(), strict=True
    ):
        torch.testing.assert_close(half, single, rtol=1e-3, atol=1e-6)


def test_knowledge_belongs_to_the_view(store, teacher_run):
    """Image, view and knowledge again, from their descriptions."""
    known = KnowledgeStore(store)
    data = load_images("digits", train_size=200)
    rows = torch.tensor([199, 3, 77])
    augmentation = Augmentation("paper", 16, known.manifest.mean, known.manifest.std)
    views = augmentation(data.train.images[rows], seed=0, indices=rows, view=1)
    taps = FeatureTaps(load_student(teacher_run), known.manifest.teacher_taps)
    with torch.no_grad():
        recording = taps.run(views)
        expected = SVDLoss().extract(recording.features, recording.output)
    for one, other in zip(known.read(rows, 1).tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_manifest_says_what_it_is_of(store, teacher_run):
    known = KnowledgeStore(store).manifest
    assert known.complete
    assert (known.images, known.views, known.image_size) == (200, 2, 16)
    assert known.teacher_taps == ("stage1", "stage2", "stage3", "stage4")
    assert known.teacher_accuracy == read_summary(teacher_run).last_accuracy
    assert known.loss.startswith("SVDLoss(num_vectors=1, beta=8.0")


def test_another_teacher_has_another_digest(tmp_path, store, teacher_run):
    best = cache_config(tmp_path / "best", teacher_run / "student-best.safetensors", views=1)
    copy = cache_config(tmp_path / "copy", teacher_run, views=1)
    digests = [cache_knowledge(config).manifest.teacher_sha256 for config in (best, copy)]
    assert digests[1] == KnowledgeStore(store).manifest.teacher_sha256
    same = weights(teacher_run)["stem.0.weight"].equal(
        weights(teacher_run, "student-best.safetensors")["stem.0.weight"]
    )
    assert (digests[0] == digests[1]) == same


# Kill and resume


@pytest.mark.parametrize(("images", "whole"), [(1, 0), (64, 0), (65, 64), (230, 200), (400, 392)])
def test_a_stopped_run_goes_on(tmp_path, teacher_run, small_shards, images, whole):
    cache_knowledge(cache_config(tmp_path / "whole", teacher_run))
    with pytest.raises(Killed):
        cache_knowledge(cache_config(tmp_path / "killed", teacher_run), KillAtImages(images))
    with pytest.raises(RunError, match="an unfinished store"):
        cache_knowledge(cache_config(tmp_path / "killed", teacher_run))
    with pytest.raises(RunError, match="one that is not finished"):
        distill(stored_config(tmp_path / "run", tmp_path / "killed"))
    watching = WatchingImages()
    cache_knowledge(cache_config(tmp_path / "killed", teacher_run, resume=True), watching)
    assert (watching.done, watching.images) == (whole, 400 - whole)
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


class WatchingImages(Watching):
    def __init__(self):
        super().__init__()
        self.images = 0

    def start(self, name, total_steps, done_steps, evaluations=0.0):
        self.done = done_steps

    def advance(self, images):
        self.images += images


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(tmp_path, teacher_run, small_shards):
    """No clean-up of any kind."""
    cache_knowledge(cache_config(tmp_path / "whole", teacher_run))
    script = (
        "import os, signal, sys\n"
        "from test_cache import KillAtImages, cache_config, cache_module\n"
        "class Kill(KillAtImages):\n"
        "    def advance(self, images):\n"
        "        self.left -= images\n"
        "        if self.left <= 0:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache_module.SHARD_IMAGES = 64\n"
        "cache_module.cache_knowledge(cache_config(sys.argv[1], sys.argv[2]), Kill(230))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed"), str(teacher_run)],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    cache_knowledge(cache_config(tmp_path / "killed", teacher_run, resume=True))
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


def test_the_batch_of_the_teacher_makes_no_difference(tmp_path, store, teacher_run):
    cache_knowledge(cache_config(tmp_path / "store", teacher_run, batch_size=7))
    found, expected = KnowledgeStore(tmp_path / "store"), KnowledgeStore(store)
    rows = torch.arange(200)
    for one, other in zip(
        found.read(rows, 0).tensors(), expected.read(rows, 0).tensors(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"loss": "fsp"}, r"^loss: expected .* knowledge of SVDLoss\(.*got FSPLoss\(\)"),
        ({"num_vectors": 2}, "^loss: expected .*num_vectors=1.*got .*num_vectors=2"),
        ({"loss": "svd+soft_target"}, r"^loss: expected .* of SVDLoss\(.*got SumLoss\("),
        ({"augmentation": "crop_flip"}, "^augmentation: expected paper .*got crop_flip"),
        ({"classes_every": 2}, "^classes: expected 10 classes: .*got 5 classes"),
        ({"image_size": 8}, "^image_size: expected 16 .*got 8"),
        ({"train_size": 100}, "^train_size: expected 200 .*got 100"),
        ({"dev_fraction": 0.2}, "^data: "),
        ({"student_taps": ["stage1", "stage2"]}, "^student_taps: .*stage4, got stage1, stage2; "),
        ({"teacher": "runs/teacher"}, "^teacher: expected nothing beside knowledge"),
        ({"views": 2}, "^views: expected nothing beside knowledge"),
    ],
)
def test_a_store_that_does_not_fit(tmp_path, store, changes, match):
    with pytest.raises((RunError, ArgumentError), match=match):
        distill(stored_config(tmp_path / "run", store, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", ["position_gram", "position_svd+soft_target", "cosine"])
def test_a_store_of_a_coarser_grid(tmp_path, teacher_run, loss):
    """The teacher's maps have 16, 8, 4 and 2 positions a side."""
    store = tmp_path / "store"
    cache_knowledge(cache_config(store, teacher_run, loss=loss, grid=3, views=1))
    for grid in (None, 0, 4, 8):
        with pytest.raises(RunError, match=r"^grid: expected 3 as in .*store, got \d; give the"):
            distill(stored_config(tmp_path / "run", store, loss=loss, grid=grid))
    with pytest.raises(RunError, match=r"^loss: expected one that needs no more"):
        distill(stored_config(tmp_path / "run", store, loss=loss, grid=2))
    assert not (tmp_path / "run").exists()
    distill(stored_config(tmp_path / "run", store, loss=loss, grid=3, epochs=1))


def test_in_a_sum_each_loss_has_its_own_grid(tmp_path, teacher_run):
    loss = "position_gram+cosine"
    cache_knowledge(cache_config(tmp_path / "store", teacher_run, loss=loss, views=1))
    options = {"loss": loss, "augmentation": "paper", "learning_rate": 0.003, "epochs": 1}
    views = {"views": 1, "views_seed": 0}
    live = distill(distill_config(tmp_path / "live", teacher_run, **options, **views))
    stored = distill(stored_config(tmp_path / "run", tmp_path / "store", **options))
    losses = [read_records(run.directory)[0].transfer_loss for run in (live, stored)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_grids_that_pool_no_map_are_the_same(tmp_path, teacher_run):
    options = {"loss": "position_gram", "grid": 16}
    cache_knowledge(cache_config(tmp_path / "store", teacher_run, **options, views=1))
    for grid in (0, 16, 20):
        config = stored_config(tmp_path / str(grid), tmp_path / "store", loss="position_gram")
        config.grid, config.epochs = grid, 1
        distill(config)


def test_a_loss_on_logits_may_train_modules(tmp_path, teacher_run):
    """The store of another loss on logits has no taps if the teacher is none of the paper's."""
    cache_knowledge(cache_config(tmp_path / "store", teacher_run, loss="soft_target", views=1))
    options = {"loss": "projecting_loss:LearnedTemperatureLoss", "epochs": 1}
    assert distill(stored_config(tmp_path / "run", tmp_path / "store", **options))


def test_no_store_and_a_damaged_one(tmp_path, store):
    with pytest.raises(RunError, match=r"nowhere/manifest\.json"):
        distill(stored_config(tmp_path / "run", tmp_path / "nowhere"))
    shutil.copytree(store, tmp_path / "store")
    shard = min((tmp_path / "store").glob("*.bin"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"view-0000-from-000000000\.bin: .*--resume"):
        distill(stored_config(tmp_path / "run", tmp_path / "store"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("output", "", "^output: .*give --output"),
        ("teacher", "", "^teacher: .*give --teacher"),
        ("teacher", "absent", "^teacher: .*'absent', which does not exist"),
        ("teacher_taps", ["stage9"], "'stage9'"),
        ("teacher_width", 0.0, "^teacher_width: "),
        ("teacher_network", "vgg", "^teacher_network: "),
        ("views", 0, "^views: expected an integer of at least 1"),
        ("views_seed", -1, "^views_seed: "),
        ("augmentation", "none", "^views: expected 1, since without augmentation"),
        ("augmentation", "flip", "^augmentation: "),
        ("num_vectors", 0, "^num_vectors: "),
        ("loss", "no_such", "^loss: "),
        ("dtype", "float8", "^dtype: "),
        ("batch_size", 0, "^batch_size: "),
        ("device", "gpu", "^device: "),
        ("soft_target_weight", 0.0, "^soft_target_weight: "),
    ],
)
def test_values_that_no_store_can_have(tmp_path, teacher_run, field, value, match):
    config = cache_config(tmp_path / "store", teacher_run)
    setattr(config, field, value)
    with pytest.raises((ArgumentError, RunError), match=match):
        cache_knowledge(config)
    assert not (tmp_path / "store").exists()


def test_nothing_in_a_store_is_a_pickle(store):
    assert {path.suffix for path in store.iterdir()} == {".json", ".bin"}
    assert json.loads((store / "manifest.json").read_text())["version"] == 1
