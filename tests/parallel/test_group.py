"""What processes do together; all of it in one start of two processes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svdistill.common.errors import DataError, RunError
from svdistill.data import load_images
from svdistill.distillation.distiller import Distiller
from svdistill.linalg import watch_convergence
from svdistill.losses import FSPLoss
from svdistill.parallel import (
    batch_norm_over,
    broadcast,
    group as group_module,
    in_main,
    is_main,
    meet,
    own_share,
    rank,
    require_alike,
    size,
    sum_over,
    together,
)
from svdistill.training.epoch import EpochState
from svdistill.training.metrics import (
    EpochMeter,
    EvaluationImages,
    StepResult,
    evaluate_network,
    of_whole_batch,
)
from svdistill.training.step import TaskStep
from together import in_processes


def failing(*ranks):
    """Work that fails in these processes."""
    if rank() in ranks:
        raise DataError("image", expected="one", got=rank(), remedy="look")
    return rank()


def error_of(work):
    try:
        return repr(work())
    except (DataError, RunError) as error:
        return f"{type(error).__name__} {error.everywhere} {error}"


def count_reductions():
    """How many sums over the processes a step of both gradients takes, and how long they are."""
    sums = []
    was, group_module.dist.all_reduce = group_module.dist.all_reduce, lambda t: sums.append(len(t))
    try:
        torch.manual_seed(0)
        networks = [
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
            for _ in range(2)
        ]
        distiller = Distiller(*networks, FSPLoss(), taps=["0", "1"], clip="norm")
        out = distiller(torch.rand(2, 3, 8, 8))
        distiller.backward(F.cross_entropy(out.logits, torch.tensor([0, 1])), out, progress=0)
        return sums, [sum(p.numel() for p in layer.parameters()) for layer in networks[1]]
    finally:
        group_module.dist.all_reduce = was


def uneven_evaluation():
    """Of 13 images in batches of 6: the last batch has one, which one process has alone."""
    data = load_images("digits", train_size=13)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    evaluation = evaluate_network(
        network,
        EvaluationImages(data.train, data.augmentation("none")),
        device=torch.device("cpu"),
        batch_size=6,
        share=own_share(),
    )
    meter = EpochMeter(torch.device("cpu"))
    for batch in data.train.batches(6, device="cpu", order_seed=None, share=own_share()):
        logits = network(data.augmentation("none").normalise(batch.images)).detach()
        loss = F.cross_entropy(logits, batch.labels, reduction="sum")
        result = StepResult(loss, None, logits, None)
        if batch.part is not None:
            factor = batch.part.of_labelled()
            result = of_whole_batch(
                result._replace(task_loss=loss * factor), batch.labels, batch.part
            )
        else:
            result = result._replace(task_loss=loss / len(batch.labels))
        meter.update(result, batch.labels)
    measured = (evaluation.accuracy, evaluation.loss, evaluation.images)
    return [*measured, meter.images, meter.train_accuracy(), meter.mean_task_loss()]


def begun(number):
    """An epoch in which this process has drawn and counted so much, and what saves it."""
    step = TaskStep(nn.Linear(1, 1), None)
    with watch_convergence("cpu") as watch:
        epoch = EpochState(
            step, watch, torch.device("cpu"), total_steps=4, learning_rate=0.1, seed=number
        )
    watch.decomposed += 10 + number
    watch.missed += number
    epoch.set_random_states()
    return epoch, epoch.state_dict()


def gone_on(state):
    """What this process has drawn next, and of how many decompositions it knows."""
    epoch, _ = begun(9)
    epoch.watch.reset()
    epoch.load_state_dict(state)
    epoch.set_random_states()
    return torch.rand(1).item(), epoch.watch.decomposed, int(epoch.watch.missed)


def two():
    own = torch.full((3,), float(rank()))
    broadcast([own])
    written = []
    in_main(lambda: written.append(rank()))
    return {
        "who": (rank(), size(), is_main(), own_share().take(torch.arange(5)).tolist()),
        "sum": sum_over(torch.tensor([1.0 + rank(), 10.0])),
        "broadcast": own,
        "written": written,
        "together": [
            error_of(partial(together, partial(failing, *ranks))) for ranks in ((), (1,), (0, 1))
        ],
        "in main": [error_of(partial(in_main, partial(failing, *ranks))) for ranks in ((1,), (0,))],
        "alike": [
            error_of(lambda: require_alike({"seed": 0, "output": "a"})),
            error_of(lambda: require_alike({"seed": 0, "output": f"a{rank()}"})),
        ],
        "met": meet() is None,
        "reductions": count_reductions(),
        "evaluation": uneven_evaluation(),
        "begun": (begun(rank())[1], gone_on(begun(rank())[1])),
        "norms": {
            f"{kind} {dtype}": normalised(kind, dtype)
            for kind in NORMS
            for dtype in (torch.float64, torch.float32)
        },
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return in_processes(2, two, tmp_path_factory.mktemp("two"))


def test_each_knows_its_place(found):
    assert [each["who"] for each in found] == [(0, 2, True, [0, 2, 4]), (1, 2, False, [1, 3])]
    assert rank() == 0
    assert (size(), is_main()) == (1, True)


def test_sums_and_broadcasts_are_the_same_everywhere(found):
    for each in found:
        assert each["sum"].tolist() == [3.0, 20.0]
        assert each["broadcast"].tolist() == [0.0] * 3
    assert sum_over(torch.tensor([2.0])).item() == 2.0


def test_the_main_process_works_alone(found):
    assert [each["written"] for each in found] == [[0], []]


def test_where_one_fails_all_have_failed(found):
    for number, each in enumerate(found):
        none, one, both = each["together"]
        assert none == str(number)
        assert one == "DataError True image: expected one, got 1; look"
        assert both == "DataError True image: expected one, got 0; look"
        others, main = each["in main"]
        assert others == "None"
        assert main == "DataError True image: expected one, got 0; look"
    with pytest.raises(DataError, match="got 0"):
        together(lambda: failing(0))


def test_what_differs_is_named(found):
    for each in found:
        alike, differing = each["alike"]
        assert alike == "None"
        assert differing.startswith("RunError True output: expected the same in all processes")
        assert "a0 as in process 0, got a1 in process 1" in differing


def test_both_gradients_travel_in_one_flat_reduction(found):
    for each in found:
        sums, parameters = each["reductions"]
        task, transfer = sum(parameters), sum(parameters[:2])  # the taps are the first two layers
        assert sums == [task + transfer]


def test_every_image_counts_once(found):
    alone = uneven_evaluation()
    assert alone[2] == alone[3] == 13
    for each in found:
        assert each["evaluation"] == pytest.approx(alone, rel=1e-6)
        assert each["evaluation"][0] == alone[0]


def test_an_epoch_goes_on_with_what_each_process_had(found):
    for number, each in enumerate(found):
        torch.manual_seed(number)
        assert each["begun"][1] == (torch.rand(1).item(), 10 + number, number)


def test_an_epoch_of_two_processes_goes_on_in_one(found):
    state = found[0]["begun"][0]
    torch.manual_seed(0)
    drawn = torch.rand(1).item()
    assert gone_on(state) == (drawn, 21, 1)


NORMS = {
    "2d": lambda: nn.BatchNorm2d(4),
    "1d": lambda: nn.BatchNorm1d(4),
    "no weights": lambda: nn.BatchNorm2d(4, affine=False),
    "no statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    "functional": lambda: Functional(),
}


class Functional(nn.BatchNorm2d):
    """As libraries have them: with a forward of its own, that does what else it likes."""

    def __init__(self):
        super().__init__(4)

    def forward(self, features):
        return F.relu(
            F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, True, 0.3
            )
        )


def batch_sizes(kind):
    return (8, 2 if kind == "1d" else 1, 5)


def normalised(kind, dtype):
    """Outputs, gradients and statistics over three batches; in the second one stands in."""
    torch.manual_seed(0)
    network = nn.Sequential(NORMS[kind](), nn.Tanh(), NORMS[kind]()).to(dtype)
    outputs = []
    for seed, images in enumerate(batch_sizes(kind)):
        shape = (images, 4) if kind == "1d" else (images, 4, 3, 2)
        generator = torch.Generator().manual_seed(seed)
        # Far from zero, so that a difference of squares would lose half of its digits.
        whole = 100 + torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        share = own_share()
        part = share.part(images, images)
        features = share.take(whole).requires_grad_()
        with batch_norm_over(part):
            output = network(features)
        factor = 1.0 if part is None else part.of_sum()
        (gradient,) = torch.autograd.grad(
            factor * (output * share.take(weights)).sum(), features, retain_graph=True
        )
        (factor * (output * share.take(weights)).sum()).backward()
        outputs.append((output.detach(), gradient / size()))
    gradients = [sum_over(p.grad.clone()) / size() for p in network.parameters()]
    return outputs, gradients, [buffer.clone() for buffer in network.buffers()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", NORMS)
def test_batch_norm_is_of_the_whole_batch(kind, dtype, found):
    expected, gradients, statistics = normalised(kind, dtype)
    tolerance = {"rtol": 0, "atol": 1e-10 if dtype == torch.float64 else 1e-3}
    for number, each in enumerate(found):
        outputs, others, buffers = each["norms"][f"{kind} {dtype}"]
        for images, own, whole in zip(batch_sizes(kind), outputs, expected, strict=True):
            if number < images:
                assert_close = torch.testing.assert_close
                assert_close(own, tuple(tensor[number::2] for tensor in whole), **tolerance)
        assert_close(others, gradients, **tolerance)
        assert_close(buffers, statistics, **tolerance)
        assert [buffer.dtype for buffer in buffers] == [buffer.dtype for buffer in statistics]


def test_statistics_are_the_same_to_the_bit_in_all_processes(found):
    first, other = (each["norms"] for each in found)
    for name, (_, _, buffers) in first.items():
        assert all(map(torch.equal, buffers, other[name][2]))


def test_alone_batch_norm_is_torchs_own():
    features = torch.randn(4, 4, 3, 3)
    one, other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    with batch_norm_over(None):
        assert torch.equal(one(features), other(features))
