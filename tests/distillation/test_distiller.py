import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.common.errors import ArgumentError, TrainingError, TransferWarning
from svdistill.distillation.distiller import Distiller, DistillerOutput
from svdistill.losses import (
    FSPLoss,
    Knowledge,
    PositionSVDLoss,
    SoftTargetLoss,
    SumLoss,
    SVDLoss,
    TransferLoss,
)
from svdistill.taps import TapPairs

CLASSES = 5


def convnet(seed=0, channels=(6, 8), stride=1):
    """Two convolutions with batch norm and a classifier that takes maps of any size."""
    torch.manual_seed(seed)
    front, back = channels
    return nn.Sequential(
        nn.Conv2d(3, front, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(front),
        nn.ReLU(),
        nn.Conv2d(front, back, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(back),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(back, CLASSES),
    )


TAPS = ["2", "5"]


class TokenNet(nn.Module):
    def __init__(self, seed, length):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
        )
        self.head = nn.Linear(8, CLASSES)
        self.length = length

    def forward(self, images):
        pixels = F.adaptive_avg_pool2d(images, (self.length, 1)).flatten(2).mT
        tokens = self.embed(pixels)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(dim=1))


class ConstantLoss(TransferLoss):
    """A transfer loss whose value, and whether it passes a gradient, a test chooses."""

    def __init__(self, value, graph=True):
        super().__init__()
        self.value = value
        self.graph = graph

    def extract(self, features, logits):
        return Knowledge()

    def forward(self, features, logits, knowledge):
        attached = features[0].sum() * 0 if self.graph else 0
        return torch.tensor(self.value) + attached


class WeightedLoss(ConstantLoss):
    """Has a parameter of its own, as an adapter would."""

    def __init__(self):
        super().__init__(1.0)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, features, logits, knowledge):
        return self.scale * features[0].square().mean()


def batch(seed=0, images=8):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    return torch.randn(images, 3, 8, 8, generator=generator), labels


def make(loss=None, **options):
    return Distiller(convnet(1), convnet(2), loss or SVDLoss(), taps=TAPS, **options)


def one_step(distiller, progress=0.0, seed=0):
    images, labels = batch(seed)
    distiller.zero_grad()
    output = distiller(images)
    return distiller.backward(F.cross_entropy(output.logits, labels), output, progress=progress)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(before, after):
    return all(before[name].equal(after[name]) for name in before)


class TestTeacher:
    @pytest.mark.parametrize("put_in_train_mode", ["distiller", "teacher", "submodule", "nothing"])
    def test_stays_frozen_whatever_is_put_in_train_mode(self, put_in_train_mode):
        distiller = make()
        teacher = distiller.teacher
        before = state(teacher)
        optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1, weight_decay=0.1)
        for step in range(3):
            {
                "distiller": distiller.train,
                "teacher": teacher.train,
                "submodule": teacher[1].train,
                "nothing": lambda: None,
            }[put_in_train_mode]()
            one_step(distiller, seed=step)
            optimizer.step()
            optimizer.zero_grad()
        assert same(before, state(teacher))
        assert not any(module.training for module in teacher.modules())
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())

    def test_sees_the_images_as_it_does_at_test_time(self):
        distiller = make(loss=SoftTargetLoss())
        images, _ = batch()
        expected = distiller.loss.extract([], distiller.teacher.eval()(images))
        distiller.teacher.train()
        output = distiller(images)
        torch.testing.assert_close(
            output.transfer_loss, distiller.loss([], output.logits, expected), rtol=1e-6, atol=0
        )

    def test_gets_no_gradient_even_if_somebody_thaws_it(self):
        distiller = make()
        distiller.requires_grad_(True)
        one_step(distiller)
        assert all(parameter.grad is None for parameter in distiller.teacher.parameters())

    def test_is_left_as_it_was_where_construction_fails(self):
        teacher = convnet(1)
        with pytest.raises(ArgumentError):
            Distiller(teacher, convnet(2), SVDLoss(), taps=["2", "nowhere"])
        assert teacher.training
        assert all(parameter.requires_grad for parameter in teacher.parameters())

    def test_same_object_as_student(self):
        network = convnet()
        with pytest.raises(ArgumentError, match=r"^student: .*deepcopy"):
            Distiller(network, network, SVDLoss(), taps=TAPS)


class TestGivenKnowledge:
    @pytest.mark.parametrize("loss", [SVDLoss(2), FSPLoss(), SoftTargetLoss()], ids=repr)
    def test_teaches_what_the_teacher_would(self, loss):
        live, images = make(loss).eval(), batch()[0]
        richer = SumLoss([SoftTargetLoss(2.0), FSPLoss(), SVDLoss(4)], [1.0, 1.0, 1.0])
        knowledge = make(richer).teach(images)
        alone = Distiller(None, live.student, loss, taps=TAPS).eval()
        torch.testing.assert_close(
            alone(images, knowledge=knowledge).transfer_loss, live(images).transfer_loss
        )

    def test_that_is_not_enough(self):
        images, _ = batch()
        knowledge = make(SVDLoss(2)).teach(images)
        with pytest.raises(ArgumentError, match=r"^knowledge: expected .*num_vectors=3"):
            make(SVDLoss(3))(images, knowledge=knowledge)


class TestStudent:
    def test_learns_and_counts_its_batches(self):
        distiller = make().train()
        before = state(distiller.student)
        one_step(distiller)
        torch.optim.SGD(distiller.trainable_parameters(), lr=0.1).step()
        after = state(distiller.student)
        unchanged = [name for name in before if before[name].equal(after[name])]
        assert unchanged == []

    def test_keeps_its_batch_statistics_in_eval_mode(self):
        distiller = make().eval()
        before = state(distiller.student)
        one_step(distiller)
        assert same(before, state(distiller.student))
        assert distiller.train() is distiller
        assert distiller.student.training

    def test_alone_is_trained_with_the_loss(self):
        distiller = make(loss=WeightedLoss())
        distiller.student[0].weight.requires_grad_(False)
        expected = [*list(distiller.student.parameters())[1:], distiller.loss.scale]
        trained = distiller.trainable_parameters()
        assert [id(parameter) for parameter in trained] == [id(parameter) for parameter in expected]

    def test_an_adapter_of_the_loss_gets_its_whole_gradient(self):
        distiller = make(loss=WeightedLoss(), clip="norm")
        images, _ = batch()
        output = distiller(images)
        distiller.backward(0 * output.logits.sum(), output, progress=0)
        assert float(distiller.loss.scale.grad) == pytest.approx(output.transfer_loss.item() / 2)

    def test_logits_are_its_own(self):
        distiller = make().eval()
        images, _ = batch()
        assert distiller(images).logits.equal(distiller.student(images))


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize(
    ("clip", "progress"), [("norm", 0), ("norm", 2.5), ("poster", 1), ("none", 0)]
)
def test_gradient_equals_one_computed_by_hand(clip, progress, weight_decay):
    distiller = make(FSPLoss(), clip=clip, weight_decay=weight_decay).eval()
    teacher, student = copy.deepcopy(distiller.teacher), copy.deepcopy(distiller.student)
    images, labels = batch()
    output = distiller(images)
    norms = distiller.backward(
        F.cross_entropy(output.logits, labels), output, progress=progress, loss_scale=4.0
    )

    def maps(network):
        front = network[:3](images)
        back = network[3:6](front)
        return front, back, network[6:](back)

    def gram(front, back):
        pooled = F.max_pool2d(front, 2).flatten(2)
        return pooled @ back.flatten(2).mT / pooled.shape[2]

    t_front, t_back, _ = maps(teacher)
    s_front, s_back, logits = maps(student)
    difference = gram(t_front, t_back) - gram(s_front, s_back)
    transfer = 0.5 * difference.square().sum(dim=(1, 2)).mean() / (6 * 8)
    task = F.cross_entropy(logits, labels)
    parameters = list(student.parameters())
    g_all = torch.autograd.grad(task, parameters, retain_graph=True)
    h_all = torch.autograd.grad(transfer, parameters, allow_unused=True)
    torch.testing.assert_close(output.transfer_loss, transfer)
    clipped_square = 0.0
    for parameter, g, h, actual in zip(
        parameters, g_all, h_all, distiller.student.parameters(), strict=True
    ):
        clipped = torch.zeros_like(g)
        if h is not None:
            g_norm, h_norm = (g + weight_decay * parameter).norm().item(), h.norm().item()
            scale = 1.0
            if clip == "norm":
                scale = min(1.0, g_norm / h_norm / (1 + math.exp(-progress)))
            elif clip == "poster" and h_norm < g_norm:
                scale = 1 / (1 + math.exp(progress - g_norm / h_norm))
            clipped = scale * h
        clipped_square += float(clipped.square().sum())
        torch.testing.assert_close(actual.grad, 4 * (g + clipped), rtol=1e-4, atol=1e-6)
    assert float(norms.clipped) == pytest.approx(math.sqrt(clipped_square), rel=1e-4)
    assert float(norms.task) == pytest.approx(math.sqrt(sum(float(g.norm()) ** 2 for g in g_all)))


class TestNetworksOfAnyKind:
    def train(self, distiller):
        images, labels = batch(images=32)
        # A teacher that knows the labels, so that both losses pull the same way.
        distiller.teacher.requires_grad_(True)
        optimizer = torch.optim.Adam(distiller.teacher.parameters(), lr=0.02)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(distiller.teacher(images), labels).backward()
            optimizer.step()
        distiller.teacher.requires_grad_(False)

        optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.05, momentum=0.9)
        history = []
        for step in range(20):
            out = distiller(images)
            task_loss = F.cross_entropy(out.logits, labels)
            distiller.backward(task_loss, out, progress=step / 5)
            optimizer.step()
            optimizer.zero_grad()
            history.append((task_loss.item(), out.transfer_loss.item()))
        return history

    @pytest.mark.parametrize("loss", [SVDLoss(2), FSPLoss(), SoftTargetLoss()], ids=repr)
    def test_five_lines_reduce_both_losses(self, loss):
        history = self.train(make(loss))
        assert history[-1][0] < 0.9 * history[0][0]
        assert history[-1][1] < history[0][1]

    def test_different_sizes_and_paths(self):
        teacher, student = convnet(1, stride=1), nn.Sequential(nn.Identity(), convnet(2, stride=2))
        taps = TapPairs(teacher=("2", "5"), student=("1.2", "1.5"))
        distiller = Distiller(teacher, student, SVDLoss(), taps=taps)
        images, _ = batch()
        assert teacher[:3](images).shape != student[1][:3](images).shape
        history = self.train(distiller)
        assert history[-1][1] < history[0][1]

    def test_tokens_of_different_lengths(self):
        taps = ["embed", "blocks.0", "blocks.1"]
        distiller = Distiller(TokenNet(1, 8), TokenNet(2, 6), SVDLoss(2), taps=taps)
        history = self.train(distiller)
        assert history[-1][0] < history[0][0]
        assert distiller.student.blocks[0].linear1.weight.grad is None  # zeroed after its step

    def test_a_copy_trains_apart_from_its_original(self):
        distiller = make()
        before = state(distiller.student)
        copied = copy.deepcopy(distiller)
        self.train(copied)
        assert same(before, state(distiller.student))
        assert not same(before, state(copied.student))

    def test_no_gradients_are_needed_to_look_at_the_loss(self):
        distiller = make().eval()
        images, _ = batch()
        expected = distiller(images).transfer_loss.item()
        for guard in (torch.no_grad, torch.inference_mode):
            with guard():
                assert distiller(images).transfer_loss.item() == pytest.approx(expected)


class TestTaps:
    def make(self, taps):
        return Distiller(convnet(1), convnet(2), SVDLoss(), taps=taps)

    def test_unpaired(self):
        with pytest.raises(ArgumentError, match=r"^taps: .*got 2 and 1"):
            self.make(TapPairs(("2", "5"), ("2",)))

    def test_a_path_that_one_of_them_lacks(self):
        with pytest.raises(ArgumentError, match=r"^taps: .*'nine'"):
            self.make(TapPairs(("2", "5"), ("2", "nine")))

    @pytest.mark.parametrize("taps", ["2", TapPairs("2", "5")])
    def test_a_string(self, taps):
        with pytest.raises(ArgumentError, match=r"^taps: expected a list .*write \['2'\]"):
            self.make(taps)

    def test_too_few_for_the_loss(self):
        with pytest.raises(ArgumentError, match="at least 2"):
            self.make(["2"])(batch()[0])

    @pytest.mark.parametrize("loss", [SVDLoss(), FSPLoss()], ids=repr)
    def test_channels_that_differ(self, loss):
        distiller = Distiller(convnet(1), convnet(2, channels=(6, 4)), loss, taps=TAPS)
        with pytest.raises(ArgumentError, match=r"tap.* 1.*8.*4"):
            distiller(batch()[0])

    def test_a_bad_clip(self):
        with pytest.raises(ArgumentError, match=r"^clip: .*'norm'"):
            make(clip="norms")


class TestSilentFailures:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_a_transfer_that_is_not_finite(self, value):
        distiller = make(ConstantLoss(value))
        with pytest.raises(TrainingError, match=r"^transfer_loss: expected a finite"):
            one_step(distiller)
        assert all(parameter.grad is None for parameter in distiller.parameters())

    def test_images_with_nan(self):
        distiller = make(SoftTargetLoss())
        images, labels = batch()
        images[0, 0, 0, 0] = float("nan")
        output = distiller(images)
        with pytest.raises(TrainingError, match="NaN or inf in the images"):
            distiller.backward(F.cross_entropy(output.logits, labels), output, progress=0)

    @pytest.mark.parametrize("loss", [SVDLoss(), FSPLoss()], ids=repr)
    def test_the_tap_and_the_images_are_named(self, loss):
        distiller = make(loss)
        images, labels = batch()
        images[1, 0, 0, 0] = float("nan")
        distiller.eval()  # a batch norm in training spreads it over the batch
        output = distiller(images)
        expected = rf"^transfer_loss: .* tap '2': NaN in image 1 of {len(images)}; look for NaN"
        with pytest.raises(TrainingError, match=expected):
            distiller.backward(F.cross_entropy(output.logits, labels), output, progress=0)

    def test_another_batch_is_not_blamed(self):
        distiller = make(SVDLoss())
        images, labels = batch()
        output = distiller(torch.full_like(images, float("nan")))
        distiller(images)
        with pytest.raises(TrainingError, match=r"^transfer_loss: .* got nan; look for NaN"):
            distiller.backward(F.cross_entropy(output.logits, labels), output, progress=0)

    def test_nothing_of_a_batch_is_kept_after_its_backward_pass(self):
        distiller = make(SVDLoss())
        one_step(distiller)
        assert distiller._inputs is None

    @pytest.mark.parametrize("clip", ["norm", "none", "amortised"])
    def test_a_gradient_that_is_not_finite_beyond_the_taps(self, clip):
        """The losses' own gradients are; a layer of the student's may divide by zero."""
        distiller = make(SVDLoss(), clip=clip)
        distiller.student[0].weight.register_hook(lambda gradient: gradient * float("nan"))
        with pytest.raises(TrainingError, match=r"^transfer gradient: expected a finite norm"):
            one_step(distiller)

    def test_under_a_loss_scale_the_scaler_looks(self):
        """It makes the scale smaller, which it could not if the step raised."""
        distiller = make(SVDLoss())
        distiller.student[0].weight.register_hook(lambda gradient: gradient * float("inf"))
        images, labels = batch()
        output = distiller(images)
        task_loss = F.cross_entropy(output.logits, labels)
        distiller.backward(task_loss, output, progress=0, loss_scale=2.0)
        assert not distiller.student[0].weight.grad.isfinite().all()

    def test_a_transfer_that_reaches_nothing(self):
        with pytest.raises(TrainingError, match="depends on none"):
            one_step(make(ConstantLoss(1.0, graph=False)))

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_an_epoch_that_taught_nothing_warns(self, value):
        """Zero loss, or a loss whose gradient is zero throughout."""
        distiller = make(ConstantLoss(value))
        one_step(distiller, progress=0)
        one_step(distiller, progress=0.9)
        with pytest.warns(TransferWarning, match="every step of epoch 0"):
            one_step(distiller, progress=1)
        with pytest.warns(TransferWarning, match="every step of epoch 1"):
            distiller.end_epoch()

    def test_the_warning_points_at_the_users_line(self):
        distiller = make(ConstantLoss(0.0))
        one_step(distiller)
        with pytest.warns(TransferWarning) as caught:
            one_step(distiller, progress=1)
        assert [warning.filename for warning in caught] == [__file__]
        with pytest.warns(TransferWarning) as caught:
            distiller.end_epoch()
        assert [warning.filename for warning in caught] == [__file__]

    def test_a_copy_of_the_teacher_warns(self):
        teacher = convnet(1)
        distiller = Distiller(teacher, copy.deepcopy(teacher).eval(), SoftTargetLoss(), taps=[])
        one_step(distiller.eval())
        with pytest.warns(TransferWarning, match="a copy of the teacher"):
            distiller.end_epoch()

    @pytest.mark.parametrize("clip", ["norm", "poster", "global", "none", "amortised"])
    def test_a_gradient_that_is_zero_at_every_tap_warns_and_leaves_the_tasks(self, clip):
        """All maps here have more positions than channels."""
        distiller = make(SVDLoss(2, gradient="authors"), clip=clip).eval()
        norms = one_step(distiller)
        assert (float(norms.transfer), float(norms.clipped)) == (0, 0)
        images, labels = batch()
        parameters = list(distiller.student.parameters())
        task_loss = F.cross_entropy(distiller.student(images), labels)
        expected = torch.autograd.grad(task_loss, parameters)
        torch.testing.assert_close([parameter.grad for parameter in parameters], list(expected))
        with pytest.warns(TransferWarning, match="its gradient was zero in every step"):
            distiller.end_epoch()

    def test_one_step_that_taught_is_enough(self):
        loss = ConstantLoss(0.0)
        distiller = make(loss, clip="norm")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            one_step(distiller, progress=0)
            distiller.loss = SVDLoss()
            one_step(distiller, progress=0.5)
            distiller.loss = loss
            one_step(distiller, progress=0.7)
            distiller.end_epoch()
            distiller.end_epoch()  # no step since: nothing to say

    def test_no_warning_in_a_usual_run(self):
        distiller = make()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for epoch in range(3):
                one_step(distiller, progress=epoch)
            distiller.end_epoch()


def test_output_has_names():
    output = make()(batch()[0])
    assert isinstance(output, DistillerOutput)
    assert output.logits.shape == (8, CLASSES)
    assert output.transfer_loss.shape == ()


class TestUnclippedLoss:
    """A second loss counts with the task: learnt in full, and the first is clipped against both."""

    def make(self, teacher, clip="global"):
        student = convnet(0)
        soft = SumLoss([SoftTargetLoss()], [0.9])
        return Distiller(teacher, student, SVDLoss(), taps=TAPS, clip=clip, unclipped=soft)

    def gradients(self, distiller, *losses):
        parameters = distiller.trainable_parameters()
        return [
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            for loss in losses
        ]

    def test_the_gradient_is_the_sum_of_both_and_the_clipped_one(self):
        distiller = self.make(convnet(1))
        images, labels = batch()
        output = distiller(images)
        task = 0.1 * F.cross_entropy(output.logits, labels)
        both, transfer = self.gradients(
            distiller, task + output.unclipped_loss, output.transfer_loss
        )
        reached = [(g, h) for g, h in zip(both, transfer, strict=True) if h is not None]
        norms = [
            sum(float(g.square().sum()) for g in side) ** 0.5 for side in zip(*reached, strict=True)
        ]
        scale = min(1.0, torch.sigmoid(torch.tensor(2.0)).item() * norms[0] / norms[1])
        distiller.backward(task, output, progress=2.0)
        for parameter, g, h in zip(distiller.trainable_parameters(), both, transfer, strict=True):
            expected = g if h is None else g + scale * h
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)

    def test_it_is_the_loss_of_its_own(self):
        distiller = self.make(convnet(1))
        images, _ = batch()
        alone = Distiller(convnet(1), distiller.student, SoftTargetLoss(), taps=TAPS)
        expected = 0.9 * alone(images).transfer_loss
        torch.testing.assert_close(distiller(images).unclipped_loss, expected)
        assert alone(images).unclipped_loss is None

    def test_knowledge_of_both_stands_for_the_teacher(self):
        distiller = self.make(convnet(1)).eval()
        images, _ = batch()
        knowledge = distiller.teach(images)
        without = self.make(None).eval()
        expected, output = distiller(images), without(images, knowledge=knowledge)
        torch.testing.assert_close(output.transfer_loss, expected.transfer_loss)
        torch.testing.assert_close(output.unclipped_loss, expected.unclipped_loss)
        with pytest.raises(ArgumentError, match="SoftTargetKnowledge"):
            without(images, knowledge=knowledge.parts[0])


# Compiling the decompositions takes twenty seconds a case.
SLOW = [pytest.param(loss, marks=pytest.mark.slow) for loss in (SVDLoss, PositionSVDLoss)]


@pytest.mark.parametrize("clip", ["amortised", "norm"])
@pytest.mark.parametrize("compiled", ["distiller", "student"])
@pytest.mark.parametrize("loss", [FSPLoss, *SLOW])
def test_compiled_and_eager_agree(loss, compiled, clip):
    def network():
        layers = nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(32 * 16, 5))

    torch.manual_seed(0)
    teacher, student = network(), network()
    images = torch.rand(4, 3, 8, 8)
    gradients = []
    for use in (None, compiled):
        student.zero_grad()
        model = torch.compile(student, backend="aot_eager") if use == "student" else student
        distiller = Distiller(teacher, model, loss(), taps=["0", "2"], clip=clip)
        call = torch.compile(distiller, backend="aot_eager") if use == "distiller" else distiller
        output = call(images)
        distiller.backward(output.logits.square().mean(), output, progress=0)
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters()]))
    assert (gradients[1] - gradients[0]).norm() <= 1e-4 * gradients[0].norm()
