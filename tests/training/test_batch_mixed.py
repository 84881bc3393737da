import dataclasses

import pytest
import torch

from svdistill.common.errors import ArgumentError
from svdistill.data import UNLABELLED
from svdistill.distillation import FrozenTeacher
from svdistill.losses import DKDLoss, SoftTargetLoss
from svdistill.networks import build_network
from svdistill.runs.records import read_records, read_summary
from svdistill.taps import FeatureTaps
from svdistill.training import distill, evaluate, train
from svdistill.training.batch import TrainingBatch, mixed
from tiny_runs import KillAtStep, Killed, distill_config, outcome, train_config, weights


def pictures(count=6, size=8):
    """Images of one value each, the number of their label."""
    values = torch.arange(count, dtype=torch.float32)
    return TrainingBatch(
        values.view(-1, 1, 1, 1).expand(-1, 3, size, size).clone(), torch.arange(count)
    )


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
@pytest.mark.parametrize("alpha", [None, 0.1, 5.0])
def test_the_labels_have_the_shares_of_their_images(kind, alpha):
    for seed in range(20):
        batch = pictures()
        before = batch.images.clone()
        result = mixed(batch, kind, alpha, seed)
        assert torch.equal(batch.images, before)
        assert {*map(tuple, torch.stack([result.labels, result.mixed_in.labels], 1).tolist())} in (
            {(n, (n - 1) % 6) for n in range(6)},
            {((n - 1) % 6, n) for n in range(6)},
        )
        share = result.mixed_in.share
        assert ((share >= 0) & (share <= 0.5)).all()
        expected = (1 - share) * result.labels + share * result.mixed_in.labels
        torch.testing.assert_close(result.images.mean(dim=(1, 2, 3)), expected)


def shares(kind, alpha, count=2000):
    """What the images of different draws have of themselves."""
    values = torch.zeros(2, 1, 32, 32)
    values[0] = 1
    batch = TrainingBatch(values, torch.tensor([1, 0]))
    return torch.stack([mixed(batch, kind, alpha, seed).images[0].mean() for seed in range(count)])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_of_a_beta_distribution(alpha):
    drawn = shares("mixup", alpha)
    assert abs(float(drawn.mean()) - 0.5) < 0.04
    assert float(drawn.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_a_box_is_anywhere_and_may_reach_over_the_border():
    images = torch.zeros(2, 1, 16, 16)
    images[0] = 1
    batch = TrainingBatch(images, torch.tensor([1, 0]))
    boxes = torch.stack(
        [1 - mixed(batch, "cutmix", None, seed).images[0, 0] for seed in range(800)]
    )
    assert set(boxes.unique().tolist()) == {0.0, 1.0}
    for box in boxes:  # a rectangle: all its rows are alike
        assert len({tuple(row.tolist()) for row in box if row.any()}) <= 1
    seen = boxes.mean(dim=0)
    assert torch.allclose(seen, seen.flip(0), atol=0.08)
    assert torch.allclose(seen, seen.T, atol=0.08)
    assert 0.3 < float(boxes.mean()) < 0.5  # Beta(1, 1) has 1/2, without what is cut off


def test_both_takes_either():
    draws = [mixed(pictures(), "both", 1.0, seed).images for seed in range(60)]
    pasted = sum(set(images.unique().tolist()) <= set(range(6)) for images in draws)
    assert 15 < pasted < 45


def test_an_image_without_label_stays_without():
    batch = pictures()
    batch.labels[3:] = UNLABELLED
    result = mixed(batch, "mixup", None, seed=0)
    assert int((result.labels == UNLABELLED).sum()) == 3
    assert int((result.mixed_in.labels == UNLABELLED).sum()) == 3


@pytest.mark.parametrize("count", [1, 2])
def test_small_batches(count):
    assert mixed(pictures(count), "cutmix", None, seed=0).images.shape == (count, 3, 8, 8)


def test_teacher_and_student_see_the_same_mixed_images(tmp_path, teacher_run, monkeypatch):
    seen = {FrozenTeacher: [], FeatureTaps: []}
    for kind, images in seen.items():

        def watched(self, given, run=kind.run, images=images):
            if isinstance(self, FrozenTeacher) or self.model.training:
                images.append(given.clone())
            return run(self, given)

        monkeypatch.setattr(kind, "run", watched)
    shown = []
    for mix in (None, "both"):
        config = distill_config(tmp_path / str(mix), teacher_run, mix=mix, epochs=1)
        distill(config)
        taught, learnt = ([one for one in some if len(one) > 2] for some in seen.values())
        assert [len(one) for one in learnt] == [64, 64, 64, 8]
        assert all(torch.equal(one, other) for one, other in zip(taught, learnt, strict=True))
        shown.append(learnt)
        for images in seen.values():
            images.clear()
    assert all(not torch.equal(one, other) for one, other in zip(*shown, strict=True))


RECIPE = {
    "mix": "both",
    "label_smoothing": 0.1,
    "ema": 0.9,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "augmentation": "photo",
}


def test_a_recipe_goes_on_bit_for_bit(tmp_path, teacher_run):
    config = distill_config(tmp_path / "run", teacher_run, loss="soft_target", **RECIPE)
    distill(dataclasses.replace(config, output=str(tmp_path / "whole")))
    for steps in (2, 4):
        with pytest.raises(Killed):
            distill(dataclasses.replace(config, checkpoint_minutes=1e-9), KillAtStep(steps))
        config = dataclasses.replace(config, resume=True)
    distill(config)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_each_option_changes_what_is_learnt(tmp_path):
    found = set()
    for number, options in enumerate(({}, {"label_smoothing": 0.1}, {"mix": "mixup"})):
        train(train_config(tmp_path / str(number), epochs=1, **options))
        found.add(read_records(tmp_path / str(number))[0].task_loss)
    assert len(found) == 3


def test_the_average_is_evaluated_and_saved(tmp_path):
    networks = {}
    for ema in (None, 0.9):
        torch.manual_seed(0)
        networks[ema] = build_network("mobilenet_student", 10, 0.1)
        config = train_config(tmp_path / str(ema), width=1.0, epochs=1, ema=ema)
        train(config, network=networks[ema])
    saved = weights(tmp_path / "0.9")
    torch.testing.assert_close(dict(networks[0.9].state_dict()), saved, rtol=0, atol=0)
    assert not torch.equal(saved["stem.0.weight"], weights(tmp_path / "None")["stem.0.weight"])
    own = {"network": networks[None]}  # whose weights are replaced by the saved ones
    assert (
        evaluate(tmp_path / "0.9", **own).accuracy == read_summary(tmp_path / "0.9").last_accuracy
    )


@pytest.mark.parametrize("loss", ["dkd", "svd+dkd", DKDLoss()])
def test_a_loss_that_reads_labels_is_refused(tmp_path, teacher_run, loss):
    given = {} if isinstance(loss, str) else {"loss": loss}
    named = {"loss": loss} if isinstance(loss, str) else {}
    config = distill_config(tmp_path / "run", teacher_run, mix="mixup", **named)
    with pytest.raises(
        ArgumentError, match=r"^mix: .*a mixed image has two.*(dkd|DKDLoss)'; leave out"
    ):
        distill(config, **given)
    assert not (tmp_path / "run").exists()


def test_a_loss_object_that_reads_none_is_fine(tmp_path, teacher_run):
    config = distill_config(tmp_path / "run", teacher_run, mix="mixup", epochs=1)
    distill(config, loss=SoftTargetLoss())
