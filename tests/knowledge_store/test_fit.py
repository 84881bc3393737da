from dataclasses import replace

import pytest
from stores import knowledge, manifest

from svdistill.data import load_images
from svdistill.errors import RunError
from svdistill.knowledge_store import loss_text, require_fit
from svdistill.losses import FSPLoss, SoftTargetLoss, SumLoss, SVDLoss


@pytest.fixture(scope="module")
def data():
    return load_images("digits", train_size=100)


@pytest.fixture
def fitting(data):
    return manifest(
        knowledge(),
        data_fingerprint=data.fingerprint,
        images=100,
        class_names=data.class_names,
        loss=loss_text(SVDLoss()),
    )


def test_what_fits(fitting, data):
    require_fit(fitting, data, SVDLoss(), "seed")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("class_names", ("cat", "dog"), r"^classes: expected 2 classes \(cat, dog\) as in the"),
        ("image_size", 32, "^image_size: expected 32 as .*got 16; give the store's image_size"),
        ("images", 50, "^train_size: expected 50 as .*got 100"),
        ("data_fingerprint", "other", "^data: expected other as in the knowledge store"),
        ("loss", "FSPLoss()", r"^loss: expected FSPLoss\(\) as .*got SVDLoss\(num_vectors=1"),
        ("augmentation", "none", "^augmentation: expected none as .*got seed; .*or make a store"),
    ],
)
def test_each_mismatch_is_named(fitting, data, name, value, match):
    with pytest.raises(RunError, match=match):
        require_fit(replace(fitting, **{name: value}), data, SVDLoss(), "seed")


def test_losses_differ_in_their_options():
    losses = [
        SVDLoss(),
        SVDLoss(num_vectors=2),
        FSPLoss(),
        SoftTargetLoss(),
        SoftTargetLoss(2.0),
        SumLoss([SVDLoss(), SoftTargetLoss()], [1.0, 1.0]),
        SumLoss([SVDLoss(), SoftTargetLoss()], [1.0, 0.5]),
        SumLoss([FSPLoss(), SoftTargetLoss()], [1.0, 1.0]),
    ]
    texts = {loss_text(loss) for loss in losses}
    assert len(texts) == len(losses)
    assert not any("\n" in text for text in texts)
