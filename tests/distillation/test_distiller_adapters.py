"""A Distiller whose networks have different channels, sizes and kinds of features."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recorded_work import Recordable, recorded
from svdistill.common.errors import ArgumentError, TrainingError, TransferWarning
from svdistill.distillation.adapters import Adapters
from svdistill.distillation.distiller import Distiller
from svdistill.losses import FSPLoss, PositionSVDLoss, SoftTargetLoss, SumLoss, SVDLoss
from svdistill.taps import TapPairs, describe_pairs

CLASSES = 5


class ConvNet(nn.Module):
    """Two stages of maps, 8x8 and 4x4."""

    def __init__(self, channels, seed):
        super().__init__()
        torch.manual_seed(seed)
        front, back = channels
        self.first = nn.Sequential(nn.Conv2d(3, front, 3, padding=1), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(front, back, 3, stride=2, padding=1), nn.Tanh())
        self.head = nn.Linear(back, CLASSES)

    def forward(self, images):
        return self.head(self.second(self.first(images)).mean(dim=(2, 3)))


class TokenNet(nn.Module):
    """Two stages of tokens: 4x4 patches behind a class token, which the head reads."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.first, self.second = (
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images):
        patches = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1)
        return self.head(self.second(self.first(tokens))[:, 0])


TAPS = ["first", "second"]
NETWORKS = {
    "maps": lambda seed: ConvNet((6, 8), seed),
    "maps of equal front": lambda seed: ConvNet((6, 4), seed),
    "wide maps": lambda seed: ConvNet((10, 12), seed),
    "tokens": lambda seed: TokenNet(8, seed),
    "wide tokens": lambda seed: TokenNet(12, seed),
}


def batch(seed=0, images=8):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    return torch.randn(images, 3, 8, 8, generator=generator), labels


def make(teacher="wide maps", student="maps", loss=None, **options):
    """With paired taps, as `pair_taps` gives them."""
    networks = NETWORKS[teacher](1), NETWORKS[student](2)
    taps = describe_pairs(*networks, TapPairs(tuple(TAPS), tuple(TAPS)), batch()[0])
    return Distiller(*networks, loss or SVDLoss(2), taps=taps, **options)


def one_step(distiller, progress=0.0, seed=0):
    images, labels = batch(seed)
    distiller.zero_grad()
    output = distiller(images)
    return distiller.backward(F.cross_entropy(output.logits, labels), output, progress=progress)


class TestWhichAreMade:
    def test_those_of_taps_whose_channels_differ(self):
        distiller = make("maps", "maps of equal front")
        assert distiller.adapters.student_channels == (6, 4)
        assert distiller.adapters.teacher_channels == (6, 8)
        assert len(list(distiller.adapters.parameters())) == 1

    @pytest.mark.parametrize(
        ("loss", "made"),
        [
            (SVDLoss(), True),
            (FSPLoss(), True),
            (SoftTargetLoss(), False),
            (PositionSVDLoss(), False),
            (SumLoss([SoftTargetLoss(), SVDLoss()], [1.0, 1.0]), True),
            (SumLoss([SoftTargetLoss(), PositionSVDLoss()], [1.0, 1.0]), False),
        ],
        ids=str,
    )
    def test_only_for_a_loss_that_compares_channels(self, loss, made):
        distiller = make(loss=loss)
        assert (distiller.adapters is not None) == made
        one_step(distiller)

    def test_for_the_unclipped_loss_too(self):
        distiller = make(loss=PositionSVDLoss(), unclipped=SVDLoss())
        assert distiller.adapters is not None
        one_step(distiller)

    def test_none_where_all_channels_agree(self):
        assert make("maps", "maps").adapters is None

    def test_none_for_plain_paths(self):
        networks = NETWORKS["wide maps"](1), NETWORKS["maps"](2)
        distiller = Distiller(*networks, SVDLoss(), taps=TAPS)
        assert distiller.adapters is None
        message = (
            r"channels at tap 0: .*teacher's 10, got 6; .*pair_taps.*adapters=.*PositionGramLoss"
        )
        with pytest.raises(ArgumentError, match=message):
            distiller(batch()[0])

    def test_those_given_are_taken_as_they_are(self):
        adapters = Adapters([6, 8], [10, 12])
        networks = NETWORKS["wide maps"](1), NETWORKS["maps"](2)
        distiller = Distiller(*networks, SVDLoss(), taps=TAPS, adapters=adapters)
        assert distiller.adapters is adapters
        one_step(distiller)
        assert make(adapters=adapters).adapters is adapters

    def test_as_many_as_taps(self):
        with pytest.raises(ArgumentError, match=r"^adapters: expected one for each of the 2 taps"):
            make(adapters=Adapters([6], [10]))

    def test_where_the_student_is(self):
        networks = NETWORKS["wide maps"](1), NETWORKS["maps"](2).to("meta")
        distiller = Distiller(*networks, SVDLoss(), taps=TAPS, adapters=Adapters([6, 8], [10, 12]))
        assert all(weight.is_meta for weight in distiller.adapters.parameters())


class TestTraining:
    def test_they_are_trained_and_are_no_part_of_the_student(self):
        distiller = make()
        trained = {id(parameter) for parameter in distiller.trainable_parameters()}
        both = [*distiller.student.parameters(), *distiller.adapters.parameters()]
        assert trained == {id(parameter) for parameter in both}
        assert not any("adapters" in name for name in distiller.student.state_dict())
        assert any(name.startswith("adapters.") for name in distiller.state_dict())

    @pytest.mark.parametrize("loss", [SVDLoss(2), PositionSVDLoss(2)], ids=str)
    @pytest.mark.parametrize(
        ("teacher", "student"),
        [
            ("wide maps", "maps"),
            ("maps", "wide maps"),
            ("wide tokens", "tokens"),
            ("wide tokens", "maps"),
            ("wide maps", "tokens"),
        ],
    )
    def test_any_features_of_a_teacher_draw_any_student(self, teacher, student, loss):
        distiller = make(teacher, student, loss)
        before = copy.deepcopy(distiller.adapters)
        optimizer = torch.optim.AdamW(distiller.trainable_parameters(), lr=0.01)
        images, labels = batch()
        history = []
        for step in range(15):
            output = distiller(images)
            task_loss = F.cross_entropy(output.logits, labels)
            distiller.backward(task_loss, output, progress=step / 5)
            optimizer.step()
            optimizer.zero_grad()
            history.append((task_loss.item(), output.transfer_loss.item()))
        assert history[-1][0] < 0.9 * history[0][0]
        assert history[-1][1] < 0.9 * history[0][1]
        if before is not None:
            pairs = zip(before.parameters(), distiller.adapters.parameters(), strict=True)
            assert not any(old.equal(new) for old, new in pairs)

    def test_under_autocast(self):
        distiller = make()
        images, labels = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = distiller(images)
        exact = distiller(images)
        torch.testing.assert_close(output.transfer_loss, exact.transfer_loss, rtol=0.1, atol=1e-3)
        distiller.backward(F.cross_entropy(output.logits.float(), labels), output, progress=0)
        for parameter in distiller.trainable_parameters():
            assert parameter.grad.dtype == torch.float32
            assert parameter.grad.isfinite().all()

    def test_a_recorded_step_never_waits_for_the_host(self):
        distiller = make()
        images, labels = batch()
        one_step(distiller)  # as a warm-up does
        distiller.zero_grad()
        with recorded(), Recordable():
            output = distiller(images)
            task_loss = F.cross_entropy(output.logits, labels)
            distiller.backward(task_loss, output, progress=torch.zeros(()), measure=False)

    def test_adapters_alone_must_not_learn(self):
        """Of a student that is frozen up to its last tap nothing but they would."""
        distiller = make()
        for stage in (distiller.student.first, distiller.student.second):
            stage.requires_grad_(False)
        with pytest.raises(TrainingError, match="depends on none"):
            one_step(distiller)

    def test_a_copy_trains_apart_from_its_original(self):
        distiller = make()
        copied = copy.deepcopy(distiller)
        optimizer = torch.optim.SGD(copied.trainable_parameters(), lr=0.1)
        one_step(copied)
        optimizer.step()
        for old, new in zip(
            distiller.adapters.parameters(), copied.adapters.parameters(), strict=True
        ):
            assert old.grad is None
            assert not old.equal(new)


class TestClipping:
    """The task does not reach the adapters: nothing there to compare with."""

    def gradients(self, distiller, seed=0):
        """Both losses' gradients of the student, and the transfer's of the adapters."""
        images, labels = batch(seed)
        output = distiller(images)
        student, adapters = (list(m.parameters()) for m in (distiller.student, distiller.adapters))
        task = F.cross_entropy(output.logits, labels)
        g = torch.autograd.grad(task, student, retain_graph=True)
        h = torch.autograd.grad(output.transfer_loss, student + adapters, allow_unused=True)
        return g, h[: len(student)], h[len(student) :]

    def one_scale(self, distiller, progress, seed=0):
        """What the transfer is scaled by, from the norms over what both losses reach."""
        g, h, _ = self.gradients(distiller, seed)
        both = [(a, b) for a, b in zip(g, h, strict=True) if b is not None]
        norms = [
            sum(float(t.square().sum()) for t in side) ** 0.5 for side in zip(*both, strict=True)
        ]
        return min(1.0, torch.sigmoid(torch.tensor(progress)).item() * norms[0] / norms[1])

    def loud(self, clip, **options):
        """The transfer gradient is larger than the task's: every clip has something to do."""
        return make(loss=SumLoss([SVDLoss(2)], [300.0]), clip=clip, **options)

    @pytest.mark.parametrize("clip", ["norm", "poster", "none"])
    def test_per_tensor_they_take_the_transfers_whole_gradient(self, clip):
        distiller = self.loud(clip)
        _, _, expected = self.gradients(distiller)
        one_step(distiller, progress=1.0)
        for weight, gradient in zip(distiller.adapters.parameters(), expected, strict=True):
            assert gradient.norm() > 0
            torch.testing.assert_close(weight.grad, gradient)

    @pytest.mark.parametrize("clip", ["global", "amortised"])
    def test_with_one_scale_they_take_it_as_the_student_does(self, clip):
        distiller = self.loud(clip, clip_interval=3)
        scale = self.one_scale(distiller, progress=1.0)
        assert scale < 0.9
        for seed in range(3):  # with `amortised` the first measures, and the others carry its scale
            if clip == "global":
                scale = self.one_scale(distiller, 1.0, seed)
            g, h, expected = self.gradients(distiller, seed)
            one_step(distiller, progress=1.0, seed=seed)
            for weight, gradient in zip(distiller.adapters.parameters(), expected, strict=True):
                torch.testing.assert_close(weight.grad, scale * gradient)
            first = next(distiller.student.parameters())
            torch.testing.assert_close(first.grad, g[0] + scale * h[0])
            distiller.zero_grad()

    @pytest.mark.parametrize("clip", ["norm", "poster", "none", "global", "amortised"])
    def test_in_the_transfers_own_stage_they_take_it_whole(self, clip):
        distiller = self.loud(clip)
        _, _, expected = self.gradients(distiller)
        images, _ = batch()
        for _ in range(2):
            output = distiller(images)
            distiller.backward(torch.zeros(()), output, progress=0)
            for weight, gradient in zip(distiller.adapters.parameters(), expected, strict=True):
                torch.testing.assert_close(weight.grad, gradient)
            distiller.zero_grad()


class TestLeftUntrained:
    """An optimizer that was given the student's parameters alone."""

    def train(self, distiller, parameters, epochs, steps=2):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for epoch in range(epochs):
            for step in range(steps):
                one_step(distiller, progress=epoch, seed=step)
                optimizer.step()
                optimizer.zero_grad()

    def test_warns_after_the_first_epoch_and_not_again(self):
        distiller = make()
        self.train(distiller, distiller.student.parameters(), epochs=1)
        message = r"adapters were not.*`distiller.trainable_parameters\(\)`"
        with pytest.warns(TransferWarning, match=message) as caught:
            one_step(distiller, progress=1)
        assert [warning.filename for warning in caught] == [__file__]
        self.train(distiller, distiller.student.parameters(), epochs=2)
        distiller.end_epoch()

    def test_warns_where_the_loop_says_that_an_epoch_ends(self):
        distiller = make()
        self.train(distiller, distiller.student.parameters(), epochs=1)
        with pytest.warns(TransferWarning, match="adapters were not"):
            distiller.end_epoch()

    @pytest.mark.parametrize("fused", ["foreach", "fused"])
    def test_does_not_warn_of_adapters_that_are_trained(self, fused):
        distiller = make()
        parameters = distiller.trainable_parameters()
        optimizer = torch.optim.AdamW(parameters, lr=0.01, **{fused: True})
        for epoch in range(2):
            one_step(distiller, progress=epoch)
            optimizer.step()
            optimizer.zero_grad()
        distiller.end_epoch()

    def test_does_not_warn_before_anything_is_trained(self):
        distiller = make()
        one_step(distiller)
        distiller.end_epoch()
        self.train(distiller, distiller.student.parameters(), epochs=1)
        with pytest.warns(TransferWarning, match="adapters were not"):
            distiller.end_epoch()

    def test_does_not_warn_of_adapters_that_no_loss_reads(self):
        distiller = make(loss=SoftTargetLoss(), adapters=Adapters([6, 8], [10, 12]))
        self.train(distiller, distiller.student.parameters(), epochs=2)
        distiller.end_epoch()


class Wrapped(nn.Module):
    """A network that returns its logits as others do."""

    def __init__(self, network, wrap):
        super().__init__()
        self.network = network
        self.wrap = wrap

    def forward(self, images):
        return self.wrap(self.network(images))


@pytest.mark.parametrize("wrap", [lambda z: {"logits": z}, lambda z: (z, None)])
def test_logits_are_found_in_what_both_networks_return(wrap):
    plain = make(loss=SoftTargetLoss())
    distiller = Distiller(
        Wrapped(plain.teacher, wrap), Wrapped(plain.student, wrap), SoftTargetLoss(), taps=[]
    )
    images, _ = batch()
    for _ in range(2):  # the teacher's second run may take another form
        output, expected = distiller(images), plain(images)
        torch.testing.assert_close(output.logits, expected.logits)
        torch.testing.assert_close(output.transfer_loss, expected.transfer_loss)
