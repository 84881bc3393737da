"""Whether a store fits a run."""

from dataclasses import replace

import pytest

from stores import knowledge, manifest
from svdistill.common.errors import RunError
from svdistill.data import load_images
from svdistill.losses import FSPLoss, SoftTargetLoss, SumLoss, SVDLoss
from svdistill.store import describe, loss_text, require_fit


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
    require_fit(fitting, data, SVDLoss(), "paper")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("class_names", ("cat", "dog"), r"^classes: expected 2 classes: cat, dog as in the"),
        ("image_size", 32, "^image_size: expected 32 as .*got 16; give the store's image_size"),
        ("images", 50, "^train_size: expected 50 as .*got 100"),
        ("data_fingerprint", "other", "^data: expected other as in the knowledge store"),
        ("augmentation", "none", "^augmentation: expected none as .*got paper; .*or make a store"),
    ],
)
def test_each_mismatch_is_named(fitting, data, name, value, match):
    with pytest.raises(RunError, match=match):
        require_fit(replace(fitting, **{name: value}), data, SVDLoss(), "paper")


SVD, SOFT = SVDLoss(), SoftTargetLoss()


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("svd", SVDLoss(1)),
        ("svd", SVDLoss(2, beta=3.0, gradient="poster", reduction="mean")),
        ("fsp", FSPLoss()),
        ("soft_target", SoftTargetLoss(2.0)),
        ("soft_target", SumLoss([SOFT], [3.0])),
        ("sum", SVDLoss(2)),
        ("sum", SOFT),
        ("sum", SumLoss([SVD, SOFT], [1.0, 0.25])),
        ("sum", SumLoss([SOFT, SVD], [1.0, 0.25])),
    ],
)
def test_every_loss_that_needs_no_more_than_the_store_holds(fitting, data, kind, loss):
    require_fit(
        replace(fitting, structure=describe(knowledge(kind), "float16")), data, loss, "paper"
    )


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("svd", SVDLoss(3)),
        ("svd", FSPLoss()),
        ("svd", SOFT),
        ("svd", SumLoss([SVD, SOFT], [1.0, 1.0])),
        ("fsp", SVD),
        ("soft_target", SVD),
        ("sum", SVDLoss(3)),
        ("sum", FSPLoss()),
        ("sum", SumLoss([SVDLoss(3), SOFT], [1.0, 1.0])),
        ("sum", SumLoss([FSPLoss(), SOFT], [1.0, 1.0])),
    ],
)
def test_a_loss_that_needs_more_is_refused_and_both_are_named(fitting, data, kind, loss):
    changes = {"structure": describe(knowledge(kind), "float16"), "loss": f"AllOf({kind})"}
    with pytest.raises(RunError) as error:
        require_fit(replace(fitting, **changes), data, loss, "paper")
    assert str(error.value).startswith("loss: expected one that needs no more than the knowledge")
    assert f"AllOf({kind}), got {loss_text(loss)}; " in str(error.value)


def test_the_text_of_a_loss_has_no_addresses():
    class Own(FSPLoss):
        def extra_repr(self):
            return f"{object()}, 0xff"

    assert loss_text(Own()) == "Own(<object object>, 0xff)"


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
