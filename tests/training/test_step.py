from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from svdistill.common.errors import TrainingError, TransferWarning
from svdistill.data import UNLABELLED
from svdistill.distillation.distiller import Distiller
from svdistill.losses import FSPLoss, SVDLoss
from svdistill.networks import build_network
from svdistill.training.batch import MixedLabels, TrainingBatch, batch_cross_entropy
from svdistill.training.step import DistillStep, TaskStep, TransferStep


class Scaling:
    """What steps use of an accelerator that trains in fp16, here on a CPU."""

    def __init__(self, scale):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def autocast(self):
        return nullcontext()

    def backward(self, loss):
        self.scaler.scale(loss).backward()


@pytest.fixture(scope="module")
def plain():
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True)


def make_distiller(loss=None, **options):
    torch.manual_seed(0)
    teacher, student = (build_network("mobilenet_student", 4, 0.05) for _ in range(2))
    return Distiller(teacher, student, loss or SVDLoss(), taps=student.tap_paths, **options)


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 16, 16, generator=generator)
    return TrainingBatch(images, torch.arange(8) % 4)


def gradients(distiller):
    return [parameter.grad for parameter in distiller.student.parameters()]


def test_task_step_is_plain_cross_entropy(plain):
    torch.manual_seed(0)
    network = build_network("mobilenet_student", 4, 0.05)
    network.stem[0].weight.requires_grad_(False)
    step = TaskStep(network.eval(), plain)
    assert len(step.parameters()) == len(list(network.parameters())) - 1
    step.train_mode()
    assert network.training
    network.eval()  # so that the second pass below sees the same statistics
    images, labels, *_ = batch()
    result = step(batch(), progress=0)
    actual = [parameter.grad for parameter in step.parameters()]
    loss = F.cross_entropy(network(images), labels)
    expected = torch.autograd.grad(loss, step.parameters())
    torch.testing.assert_close(result.task_loss, loss.detach())
    torch.testing.assert_close(actual, list(expected))
    assert result.transfer_loss is None
    assert result.norms is None
    assert not result.logits.requires_grad


def test_task_step_finds_the_logits_in_what_others_return(plain):
    class Wrapped(torch.nn.Linear):
        def forward(self, images):
            return {"logits": super().forward(images.flatten(1))}

    network, images = Wrapped(3 * 16 * 16, 4), batch().images
    result = TaskStep(network, plain)(batch(), progress=0)
    torch.testing.assert_close(result.logits, network(images)["logits"].detach())
    assert network.weight.grad.norm() > 0


@pytest.mark.parametrize("images", [1, 7, 50, 128])
def test_with_all_labels_the_cross_entropy_is_torchs_bit_for_bit(images):
    generator = torch.Generator().manual_seed(images)
    labels = torch.randint(4, (images,), generator=generator)
    found = []

    def ours(logits, labels):
        return batch_cross_entropy(logits, TrainingBatch(None, labels))

    for cross_entropy in (F.cross_entropy, ours):
        generator.manual_seed(images)
        logits = torch.randn(images, 4, generator=generator).requires_grad_()
        loss = cross_entropy(logits, labels)
        (0.3 * loss).backward()
        found.append((loss, logits.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("labelled", [0, 1, 5])
def test_images_without_a_label_are_not_learnt(labelled):
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(8) % 4
    labels[labelled:] = UNLABELLED
    loss = batch_cross_entropy(logits, TrainingBatch(None, labels))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[labelled:].any()
    if labelled:
        expected = F.cross_entropy(logits[:labelled], labels[:labelled])
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    else:
        assert float(loss.detach()) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("unlabelled", [(), (1, 4)])
def test_both_labels_of_mixed_images_count_with_their_share(smoothing, unlabelled):
    """The cross-entropy with soft labels, spread out by hand."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    labels, share = torch.tensor([0, 1, 2, 3, 0, 1]), torch.full((6,), 0.3, dtype=torch.float64)
    for place in unlabelled:
        labels[place] = UNLABELLED
    others = labels.roll(1)
    batch = TrainingBatch(None, labels, mixed_in=MixedLabels(others, share))
    targets = torch.zeros(6, 4, dtype=torch.float64)
    for row in range(6):
        for label, weight in ((labels[row], 0.7), (others[row], 0.3)):
            if label != UNLABELLED:
                targets[row] += weight * smoothing / 4
                targets[row, label] += weight * (1 - smoothing)
    expected = -(targets * logits.log_softmax(dim=1)).sum() / (6 - len(unlabelled))
    torch.testing.assert_close(batch_cross_entropy(logits, batch, smoothing), expected)


@pytest.mark.parametrize("progress", [0, 3])
def test_distill_step_is_the_distillers_backward(plain, progress):
    images, labels, *_ = batch()
    by_hand, distiller = make_distiller(), make_distiller()
    output = by_hand(images)
    norms = by_hand.backward(
        0.5 * F.cross_entropy(output.logits, labels),
        output._replace(transfer_loss=3 * output.transfer_loss),
        progress=progress,
    )
    result = DistillStep(distiller, plain, 0.5, 3.0)(batch(), progress)
    torch.testing.assert_close(gradients(distiller), gradients(by_hand))
    torch.testing.assert_close(result.transfer_loss, output.transfer_loss.detach())
    torch.testing.assert_close(result.task_loss, F.cross_entropy(output.logits, labels).detach())
    assert result.norms == norms
    assert not any(tensor.requires_grad for tensor in result[:3])


def test_transfer_step_is_the_transfers_gradient_alone(plain):
    images, labels, *_ = batch()
    by_hand, distiller = make_distiller(FSPLoss()), make_distiller(FSPLoss())
    output = by_hand(images)
    (2 * output.transfer_loss).backward()
    result = TransferStep(distiller, plain, 0.5, 2.0)(batch(), progress=0)
    for actual, expected in zip(gradients(distiller), gradients(by_hand), strict=True):
        assert (actual is None) == (expected is None)
        if actual is not None:
            torch.testing.assert_close(actual, expected)
    assert distiller.student.head[2].weight.grad is None  # behind the last tap
    torch.testing.assert_close(result.transfer_loss, output.transfer_loss.detach())
    torch.testing.assert_close(result.task_loss, F.cross_entropy(output.logits, labels).detach())


@pytest.mark.parametrize("kind", [DistillStep, TransferStep])
def test_the_loss_scale_of_fp16_changes_no_gradient(plain, kind):
    """Neither the clip, in which the weight decay counts, nor the norms may see it."""
    distillers = [make_distiller(weight_decay=5.0) for _ in range(2)]
    scale = 2.0**14
    expected = kind(distillers[0], plain, 0.5, 1.0)(batch(), progress=0)
    scaling = Scaling(scale)
    result = kind(distillers[1], scaling, 0.5, 1.0)(batch(), progress=0)
    for actual, unscaled in zip(*map(gradients, reversed(distillers)), strict=True):
        assert (actual is None) == (unscaled is None)
        if actual is not None:
            torch.testing.assert_close(actual / scale, unscaled)
    torch.testing.assert_close(result.transfer_loss, expected.transfer_loss)
    if expected.norms is not None:
        torch.testing.assert_close(tuple(result.norms), tuple(expected.norms))


@pytest.mark.parametrize("kind", [DistillStep, TransferStep])
def test_a_fresh_scaler_can_step(kind):
    """Nothing but its own `scale` wakes a scaler up."""
    distiller, scaling = make_distiller(), Scaling(1024.0)
    step = kind(distiller, scaling, 1.0, 1.0)
    before = distiller.student.stem[0].weight.detach().clone()
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    step(batch(), progress=0)
    scaling.scaler.step(optimizer)
    scaling.scaler.update()
    assert not distiller.student.stem[0].weight.equal(before)


@pytest.mark.parametrize("kind", [DistillStep, TransferStep])
class TestDistillSteps:
    def test_train_the_student_alone(self, plain, kind):
        step = kind(make_distiller().eval(), plain, 1.0, 1.0)
        step.train_mode()
        assert step.distiller.student.training
        assert not step.distiller.teacher.training
        trained = {id(parameter) for parameter in step.parameters()}
        assert trained == {id(parameter) for parameter in step.distiller.student.parameters()}

    def test_refuse_a_transfer_that_is_not_finite(self, plain, kind):
        step = kind(make_distiller(), plain, 1.0, float("inf"))
        with pytest.raises(TrainingError, match="transfer_loss: expected a finite"):
            step(batch(), progress=0)

    def test_warn_where_the_transfer_teaches_nothing(self, plain, kind):
        distiller = make_distiller(FSPLoss()).eval()
        distiller.student.load_state_dict(distiller.teacher.state_dict())
        step = kind(distiller, plain, 1.0, 1.0)
        step(batch(), progress=0)
        with pytest.warns(TransferWarning, match="zero in every step of epoch 0"):
            step.end_epoch()

    def test_do_not_warn_otherwise(self, plain, kind):
        step = kind(make_distiller(), plain, 1.0, 1.0)
        step(batch(), progress=0)
        step.end_epoch()
