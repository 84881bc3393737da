"""Half precision trains, its scaler's skipped steps are counted, and the SVD stays in float32."""

import json
import math
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from svdistill.distillation import AmortisedBackward
from svdistill.distillation.adapters import Adapters
from svdistill.losses import FSPLoss, PositionSVDLoss, SoftTargetLoss, SVDLoss
from svdistill.networks import build_network
from svdistill.runs.records import read_records, read_summary
from svdistill.training import distill, run as run_module
from svdistill.training.progress import BarReporter
from tiny_runs import distill_config, weights

HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture
def fp16_on_a_cpu(monkeypatch):
    """What fp16 is on a GPU, autocast and a scaler. Accelerate makes no scaler on a CPU."""

    def make(scale):
        def accelerator(config):
            was = new_accelerator(config)
            assert isinstance(was, Accelerator)
            was.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
            was.autocast = lambda: torch.autocast("cpu", torch.float16)
            return was

        new_accelerator = run_module.new_accelerator
        monkeypatch.setattr(run_module, "new_accelerator", accelerator)

    return make


def require_finite(run):
    assert all(bool(weight.isfinite().all()) for weight in weights(run).values())
    for line in (run / "metrics.jsonl").read_text().splitlines():
        numbers = json.loads(line, parse_constant=pytest.fail)  # NaN and infinities are no JSON
        assert all(math.isfinite(x) for x in numbers.values() if isinstance(x, float))


@pytest.mark.parametrize(
    "options", [{}, {"loss": "position_svd"}, {"loss": "fsp+soft_target"}], ids=str
)
def test_bf16_trains(options, tmp_path, teacher_run):
    distill(distill_config(tmp_path / "run", teacher_run, precision="bf16", **options))
    require_finite(tmp_path / "run")
    assert read_summary(tmp_path / "run").skipped_steps == 0


@pytest.mark.parametrize("options", [{}, {"transfer_epochs": 1, "clip": "norm"}], ids=str)
def test_fp16_trains(options, tmp_path, teacher_run, fp16_on_a_cpu):
    fp16_on_a_cpu(2.0**8)
    distill(distill_config(tmp_path / "run", teacher_run, **options))
    require_finite(tmp_path / "run")
    records = read_records(tmp_path / "run")
    assert [record.skipped_steps for record in records] == [0] * len(records)
    before = build_network("mobilenet_student", 10, 0.1).state_dict()
    assert any(not weights(tmp_path / "run")[name].equal(before[name]) for name in before)


@pytest.mark.parametrize("clip", ["amortised", "norm"])
def test_steps_that_the_scaler_skips_are_counted(
    clip, tmp_path, teacher_run, fp16_on_a_cpu, capsys
):
    """A scale of 2^26 overflows in fp16 until it has been halved often enough: not for ever."""
    fp16_on_a_cpu(2.0**26)
    distill(distill_config(tmp_path / "run", teacher_run, clip=clip, epochs=5), BarReporter())
    require_finite(tmp_path / "run")
    skipped = [record.skipped_steps for record in read_records(tmp_path / "run")]
    assert 0 < sum(skipped) < 18
    assert skipped[-1] == 0
    assert read_summary(tmp_path / "run").skipped_steps == sum(skipped)
    said = capsys.readouterr().out
    assert f"images/s  {skipped[0]} steps skipped" in " ".join(said.split("\n")).replace("   ", " ")
    # A skipped step moves the schedule no more than the weights.
    rates = [record.learning_rate for record in read_records(tmp_path / "run")]
    done, expected = 0, []
    for number in skipped:
        expected.append(0.05 * (0.1 if done >= 10 else 1) * (0.1 if done >= 15 else 1))
        done += 4 - number
    assert rates == pytest.approx(expected)


def test_a_measurement_of_skipped_gradients_is_made_again():
    backward = AmortisedBackward(interval=10)
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    backward(weight.sum() * math.inf, weight.sum(), [weight])
    weight.grad = None
    assert not backward.plan(0.0)
    backward.measure_again()
    assert backward.plan(0.0)
    norms = backward(weight.sum(), 10 * weight.sum(), [weight], measure=True)
    assert float(norms.clipped) == pytest.approx(0.5)
    assert not backward.plan(0.0)


class HalfProducts(TorchDispatchMode):
    """Notes the products and decompositions that are computed in half precision."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket._qualified_op_name
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        works = any(part in name for part in ("mm", "linalg", "conv", "exp", "softmax"))
        if works and any(tensor.dtype in HALVES for tensor in tensors):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "loss",
    [SVDLoss(2), PositionSVDLoss(2), FSPLoss(), SoftTargetLoss()],
    ids=lambda x: type(x).__name__,
)
def test_under_autocast_losses_compute_in_float32(loss, dtype):
    generator = torch.Generator().manual_seed(0)

    def features():
        shapes = ((4, 6, 5, 5), (4, 8, 5, 5))
        return [
            torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes
        ]

    student, teacher = features(), features()
    logits = torch.randn(4, 3, generator=generator).to(dtype).requires_grad_()
    with HalfProducts() as watch, torch.autocast("cpu", dtype):
        knowledge = loss.extract(teacher, logits.detach() * 0.5)
        value = loss(student, logits, knowledge)
    assert value.dtype == torch.float32
    value.backward()
    assert watch.found == []
    with nullcontext():  # the same in float32, of the same numbers
        expected = loss(
            [feature.detach().float() for feature in student],
            logits.detach().float(),
            loss.extract(
                [feature.detach().float() for feature in teacher], logits.detach().float() * 0.5
            ),
        )
    torch.testing.assert_close(value.detach(), expected, rtol=2e-2, atol=1e-6)


def test_the_watch_sees_half_precision():
    with HalfProducts() as watch, torch.autocast("cpu", torch.bfloat16):
        Adapters([4], [8])([torch.randn(2, 4, 3, 3)])
    assert watch.found
