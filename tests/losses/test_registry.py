"""Every loss has one entry, which all else reads; one's own code stands beside them."""

import dataclasses
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from feature_maps import logits, maps
from svdistill.common.errors import ArgumentError
from svdistill.config import CacheConfig, DistillConfig, TeacherConfig
from svdistill.distillation.distiller import Distiller
from svdistill.losses import (
    FSPLoss,
    Knowledge,
    LossSpec,
    SoftTargetKnowledge,
    SoftTargetLoss,
    SumLoss,
    TransferLoss,
    loss_names,
    loss_specs,
    object_name,
    register,
    registry,
)
from svdistill.report.runs import row_name
from svdistill.training.setup import build_losses

OWN_CODE = """
import svdistill as sd

class Own(sd.SoftTargetLoss):
    def __init__(self, temperature=2.0):
        super().__init__(temperature)

class Needy(sd.FSPLoss):
    def __init__(self, margin):
        super().__init__()

def make(beta):
    return sd.SVDLoss(beta=beta)

class Other:
    pass
"""


class OldLoss(TransferLoss):
    """As before there were labels: `forward` takes three arguments."""

    needs_taps = False
    compares_channels = False
    knowledge_type = SoftTargetKnowledge

    def extract(self, features, logits):
        return SoftTargetKnowledge(logits.detach())

    def forward(self, features, logits, knowledge):
        return F.mse_loss(logits, knowledge.logits)


class LabelLoss(OldLoss):
    """The logits of the right classes."""

    needs_labels = True

    def forward(self, features, logits, knowledge, labels=None):
        places = labels[:, None]
        return F.mse_loss(logits.gather(1, places), knowledge.logits.gather(1, places))


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A module in the current directory."""
    (tmp_path / "own_losses.py").write_text(OWN_CODE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_losses", None)


def config(loss, kind=DistillConfig, **options):
    return kind(output="run", teacher="teacher", loss=loss, **options)


class TestBuilding:
    @pytest.mark.parametrize("name", loss_names())
    def test_every_entry_builds_by_its_defaults(self, name):
        (spec,) = loss_specs(name)
        losses = build_losses(config(name))
        assert losses.unclipped is None
        for option, value in spec.options.items():
            assert getattr(losses.clipped, option) == value
        assert {f"needs_{kind}" for kind in spec.needs} == {
            kind
            for kind in ("needs_taps", "needs_logits", "needs_labels")
            if getattr(losses.clipped, kind)
        }

    def test_a_sum_of_three_adds_the_clipped_and_leaves_soft_targets_to_the_task(self):
        losses = build_losses(config("soft_target+svd+fsp", soft_target_weight=0.5, beta=2.0))
        assert isinstance(losses.clipped, SumLoss)
        assert [type(part).__name__ for part in losses.clipped.losses] == ["SVDLoss", "FSPLoss"]
        assert losses.clipped.losses[0].beta == 2.0
        assert losses.clipped.weights == (1.0, 1.0)
        assert isinstance(losses.unclipped, SumLoss)
        assert losses.unclipped.weights == (0.5,)

    @pytest.mark.parametrize("names", [["svd", "position_svd"], ["position_gram", "cosine"]])
    def test_in_a_sum_each_loss_keeps_its_own_defaults_whatever_the_order(self, names):
        for order in (names, names[::-1]):
            built = build_losses(config("+".join(order))).clipped.losses
            alone = [build_losses(config(name)).clipped for name in order]
            assert list(map(repr, built)) == list(map(repr, alone))

    def test_in_a_sum_an_option_reaches_every_loss_that_reads_it(self):
        built = build_losses(config("svd+position_svd", num_vectors=2)).clipped.losses
        assert [loss.num_vectors for loss in built] == [2, 2]

    def test_own_code_on_logits_counts_as_part_of_the_task(self, own_code):
        losses = build_losses(config("svd+own_losses:Own", soft_target_weight=0.5))
        assert type(losses.clipped).__name__ == "SVDLoss"
        assert losses.unclipped.weights == (0.5,)
        assert config("own_losses:Own").filled().clip == "none"
        assert config("fsp+own_losses:make").filled().clip == "amortised"

    def test_an_object_has_the_weights_of_its_class_and_not_of_one_of_the_same_name(self):
        other = type("SoftTargetLoss", (FSPLoss,), {})
        assert config(object_name(SoftTargetLoss())).filled().task_weight == 0.1
        assert config(object_name(other())).filled().task_weight == 1.0

    def test_own_code_gets_the_options_that_it_names(self, own_code):
        assert build_losses(config("own_losses:Own")).clipped.temperature == 2.0
        assert build_losses(config("own_losses:Own", temperature=3.0)).clipped.temperature == 3.0
        assert build_losses(config("fsp+own_losses:make", beta=5.0)).clipped.losses[1].beta == 5.0

    @pytest.mark.parametrize("kind", [DistillConfig, CacheConfig])
    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            ("svf", "did you mean 'svd'"),
            ("SVD", "did you mean 'svd'"),
            ("svd+soft_targt", "'soft_targt' in 'svd.soft_targt'; did you mean 'soft_target'"),
            ("svd+svd", "each loss once"),
            ("svd+", "expected one of 'svd'"),
            ("own_losses:Onw", "did you mean 'Own'"),
            ("no_such_module:Own", "can be imported"),
        ],
    )
    def test_names_that_are_wrong(self, own_code, kind, loss, message):
        with pytest.raises(ArgumentError, match=message) as raised:
            config(loss, kind).check()
        assert raised.value.argument == "loss"

    @pytest.mark.parametrize(
        ("name", "message"),
        [("Needy", "margin"), ("Other", "which makes Other"), ("__name__", "got str")],
    )
    def test_own_code_that_is_no_loss(self, own_code, name, message):
        with pytest.raises(ArgumentError, match=message):
            build_losses(config(f"own_losses:{name}"))


class TestOptions:
    @pytest.mark.parametrize(
        ("loss", "option", "value", "reader"),
        [
            ("fsp", "beta", 3.0, "svd reads it"),
            ("fsp", "num_vectors", 3, "svd or position_svd reads it"),
            ("svd", "grid", 3, "position_svd or position_gram or cosine reads it"),
            ("soft_target", "nontarget_weight", 2.0, "dkd reads it"),
            ("position_svd", "gradient", "poster", "svd reads it"),
            ("svd", "temperature", 3.0, "soft_target or dkd or dist or lskd reads it"),
            ("svd", "soft_target_weight", 0.5, "dkd.* beside another reads it"),
            (
                "soft_target",
                "soft_target_weight",
                0.5,
                "dkd.* beside another reads it",
            ),
            ("own_losses:Own", "beta", 3.0, "svd reads it"),
            # At the default of another loss, too.
            ("svd", "grid", 4, "position_svd or position_gram or cosine reads it"),
            ("fsp", "beta", 8.0, "svd reads it"),
            ("fsp", "soft_target_weight", 1.0, "dkd.* beside another reads it"),
            ("object:SVDLoss", "num_vectors", 1, "svd or position_svd reads it"),
        ],
    )
    @pytest.mark.parametrize("kind", [DistillConfig, CacheConfig])
    def test_one_that_the_loss_does_not_read_is_refused(
        self, own_code, kind, loss, option, value, reader
    ):
        given = config(loss, kind, **{option: value})
        with pytest.raises(ArgumentError, match=f"beside --loss {loss}.*{reader}") as raised:
            registry.require_read(given)
        assert raised.value.argument == option

    @pytest.mark.parametrize("loss", ["fsp", "soft_target", "position_svd+soft_target", "svd"])
    def test_defaults_are_never_refused(self, loss):
        config(loss).check()
        config(loss).filled().check()
        dataclasses.replace(config("position_svd"), loss=loss).check()

    @pytest.mark.parametrize("loss", ["sp", "fsp+dist"])
    def test_a_batch_in_parts_is_refused_for_a_loss_that_relates_images(self, monkeypatch, loss):
        config(loss).check()
        with pytest.raises(ArgumentError, match=r"relate no images") as raised:
            config(loss, accumulate=2).check()
        assert raised.value.argument == "loss"
        config("svd+dkd", accumulate=2).check()
        monkeypatch.setattr(registry, "launched_size", lambda: 2)
        with pytest.raises(ArgumentError, match=r"one process"):
            config(loss).check()

    def test_the_help_tells_the_defaults(self):
        text = registry.losses_text()
        assert all(spec.title in text for spec in loss_specs("svd+fsp+position_svd+soft_target"))
        documented = " ".join(TeacherConfig.__doc__.split())
        options = {name: loss_specs(name)[0].options for name in loss_names()}
        assert options["svd"] == {"num_vectors": 1, "beta": 8.0, "gradient": "exact"}
        assert options["position_svd"] == {"num_vectors": 4, "grid": 0}
        assert options["soft_target"] == {"temperature": 4.0}
        for said in (
            "empty for 4 (position_svd) or 1 (svd)",
            "empty for 8 (svd)",
            "empty for `exact` (svd)",
            "empty for 4 (soft_target, dkd, dist) or 2 (lskd)",
            "empty for 8 (dkd)",
            "empty for 4 (position_gram), 8 (cosine) or 0 (position_svd)",
        ):
            assert said in documented


class TestRegistering:
    @pytest.fixture(autouse=True)
    def _restored(self, monkeypatch):
        monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))

    def test_a_registered_loss_is_known_everywhere(self):
        register(LossSpec("old", OldLoss, "old way", clipped=False))
        losses = build_losses(config("fsp+old"))
        assert isinstance(losses.clipped, FSPLoss)
        assert isinstance(losses.unclipped.losses[0], OldLoss)
        assert losses.unclipped.weights == (1.0,)
        named = row_name({"network": "n", "loss": "fsp+old", "transfer_epochs": 1})
        assert named == "FSP + old way, 2-stage"
        assert "old way" in registry.losses_text()

    @pytest.mark.parametrize(
        "spec",
        [
            LossSpec("svd", FSPLoss, "another"),
            LossSpec("a+b", FSPLoss, "a sum"),
            LossSpec("own", FSPLoss, "own", {"margin": 1.0}),
            LossSpec("own", FSPLoss, "own", clipped=False),
        ],
    )
    def test_what_cannot_be_registered(self, spec):
        with pytest.raises(ArgumentError):
            register(spec)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"loss": "gone"}, "gone, clipped"),
        ({"loss": "my.code:Hint+svd", "beta": 2.0}, "Hint + SVD, beta = 2, clipped"),
        ({"loss": "my.code:Hint", "temperature": 2.0}, "Hint, T = 2, clipped"),
        ({"loss": "object:Hint", "num_vectors": None}, "Hint, clipped"),
    ],
)
def test_a_row_is_named_without_the_code(values, name):
    assert f"{row_name({'network': 'n', **values, 'clip': 'none'})}" == name.replace(
        "clipped", "unclipped"
    )


class TestLabels:
    def make(self, loss, **options):
        def network():
            return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))

        torch.manual_seed(0)
        return Distiller(network(), network(), loss, taps=["0"], **options)

    def test_reach_the_loss_that_reads_them_and_no_other(self):
        labels = torch.tensor([0, 4, 2])
        distiller = self.make(OldLoss(), unclipped=SumLoss([LabelLoss(), OldLoss()], [2.0, 1.0]))
        images = torch.rand(3, 3, 8, 8)
        out = distiller(images, labels=labels)
        teacher = distiller.teacher(images)
        right = [(out.logits[i, c] - teacher[i, c]).square() for i, c in enumerate([0, 4, 2])]
        mean = F.mse_loss(out.logits, teacher)
        assert torch.equal(out.transfer_loss, mean)
        torch.testing.assert_close(out.unclipped_loss, 2 * sum(right) / 3 + mean)
        distiller.backward(out.logits.square().mean(), out, progress=0)

    def test_are_asked_for(self):
        with pytest.raises(ArgumentError, match=r"labels: .*which LabelLoss reads"):
            self.make(LabelLoss())(torch.rand(3, 3, 8, 8))

    def test_of_a_loss_that_does_not_take_them(self):
        class Mistaken(OldLoss):
            needs_labels = True

        with pytest.raises(ArgumentError, match=r"Mistaken.forward: .*labels=None"):
            Mistaken()

    def test_losses_without_them_ignore_them(self):
        loss, student, teacher = FSPLoss(), maps(0, 3), maps(1, 3)
        known: Knowledge = loss.extract(teacher, logits(1, 3))
        arguments = student, logits(0, 3), known
        assert torch.equal(loss(*arguments, torch.zeros(3)), loss(*arguments))
