import contextlib
import warnings
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from recorded_work import Recordable, recorded
from svdistill.common.errors import TrainingError, TransferWarning
from svdistill.distillation.distiller import Distiller
from svdistill.linalg import watch_convergence
from svdistill.losses import FSPLoss, SoftTargetLoss, SumLoss, SVDLoss
from svdistill.networks import build_network
from svdistill.runs.records import read_records
from svdistill.training import batch as batch_module, distill, train, trainer as trainer_module
from svdistill.training.batch import TrainingBatch
from svdistill.training.cuda_graphs import WARM_UP, CUDAGraphStep, CUDARecorder
from svdistill.training.step import DistillStep, TaskStep, TransferStep
from tiny_runs import distill_config, outcome, train_config

CLIPS = ("norm", "poster", "global", "none", "amortised")
LOSSES = {
    "svd": SVDLoss,
    "svd of two": lambda: SVDLoss(num_vectors=2),
    "svd by the poster": lambda: SVDLoss(gradient="poster"),
    "svd by the authors": lambda: SVDLoss(gradient="authors"),
    "fsp": FSPLoss,
    "soft target": SoftTargetLoss,
    "sum": lambda: SumLoss([SVDLoss(), SoftTargetLoss()], [1.0, 0.5]),
}
# Every clip, and every loss.
CASES = [("svd", clip) for clip in CLIPS] + [
    (loss, "amortised") for loss in LOSSES if loss != "svd"
]
# The loss is given what it would have extracted, if knowledge is stored; half precision changes no
# clip.
RECORDED = [
    *(("no", "svd", clip, stored) for clip in CLIPS for stored in (False, True)),
    *(("no", loss, "amortised", False) for loss in LOSSES if loss != "svd"),
    *(("bf16", loss, "amortised", False) for loss in ("svd", "fsp", "sum")),
]
TRAINED = [
    *(("no", clip, False) for clip in CLIPS),
    *(("bf16", clip, False) for clip in ("norm", "amortised")),
    ("no", "amortised", True),
]


class Tape:
    """Stands in for CUDA graphs: does the work again, into the memory of the first time."""

    def __init__(self):
        self.warmed = self.recorded = 0

    def warm_up(self, work):
        self.warmed += 1
        return work()

    def record(self, work):
        self.recorded += 1
        first = []

        def replay():
            if not first:
                first.append(work())
            else:
                overwrite(first[0], work())
            return first[0]

        return replay


class Refusing(Tape):
    def record(self, work):
        work()  # what a recording that fails leaves in `.grad` must not stay there
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


def overwrite(kept, new):
    if isinstance(kept, Tensor):
        kept.detach().copy_(new.detach())
    elif kept is not None:
        for one, other in zip(kept, new, strict=True):
            overwrite(one, other)


@pytest.fixture(params=["no", "bf16"])
def accelerator(request):
    return new_accelerator(request.param)


def new_accelerator(precision="no"):
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True, mixed_precision=precision)


def make_distiller(loss=SVDLoss, clip="norm", width=0.25, device="cpu"):
    torch.manual_seed(0)
    teacher, student = (build_network(f"vgg_{who}", 4, width) for who in ("teacher", "student"))
    distiller = Distiller(
        teacher, student, loss(), taps=student.tap_paths, clip=clip, clip_interval=3
    )
    return distiller.to(device).train()


def batches(count, images=8, last=8, device="cpu", each=10):
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        size = last if number % each == each - 1 else images
        pixels = torch.randn(size, 3, 32, 32, generator=generator)
        labels = torch.randint(4, (size,), generator=generator)
        yield pixels.to(device, memory_format=torch.channels_last), labels.to(device)


def trained(step, source, *, each=6, epochs=3, last=8, device="cpu"):
    """All that so many epochs, of so many steps each, find out, and the weights they lead to."""
    inner = getattr(step, "step", step)
    parameters = inner.parameters()
    optimizer = torch.optim.SGD(parameters, 0.01, 0.9, nesterov=True, weight_decay=1e-4)
    torch.manual_seed(5)
    found = []
    inner.train_mode()
    for number, (images, labels) in enumerate(batches(epochs * each, 8, last, device, each)):
        knowledge = None if source is None else source(images)
        result = step(TrainingBatch(images, labels, knowledge), number // each)
        images.fill_(torch.nan)  # whoever still needs the batch has kept it
        found += [result.task_loss.clone(), result.logits.clone()]
        found += [] if result.transfer_loss is None else [result.transfer_loss.clone()]
        found += [] if result.norms is None else [norm.clone() for norm in result.norms]
        optimizer.step()
        optimizer.zero_grad()
    return found, [parameter.detach().clone() for parameter in parameters]


def clear_gradients(step):
    for parameter in getattr(step, "step", step).parameters():
        parameter.grad = None


@pytest.mark.parametrize(("precision", "loss", "clip", "stored"), RECORDED)
def test_a_recorded_step_never_waits_for_the_host(precision, loss, clip, stored):
    distiller = make_distiller(LOSSES[loss], clip)
    step = DistillStep(distiller, new_accelerator(precision), 0.5, 2.0)
    images, labels = next(batches(1, images=2))
    knowledge = distiller.teach(images) if stored else None
    progress = torch.zeros(())
    with watch_convergence("cpu"):
        batch = TrainingBatch(images, labels, knowledge)
        step(batch, progress, measure=True)  # as a warm-up does
        with recorded(), Recordable():
            for measure in (True, False):
                distiller.zero_grad()
                step(batch, progress, measure=measure)


@pytest.mark.parametrize("kind", [TransferStep, TaskStep])
def test_nor_do_the_steps_of_two_stages(accelerator, kind):
    distiller = make_distiller()
    step = (
        TaskStep(distiller.student, accelerator)
        if kind is TaskStep
        else TransferStep(distiller, accelerator, 1.0, 1.0)
    )
    batch = TrainingBatch(*next(batches(1)))
    step(batch, torch.zeros(()), measure=True)
    distiller.zero_grad()
    with recorded(), Recordable():
        step(batch, torch.zeros(()), measure=True)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.linalg.eigh(x),
        lambda x: torch.linalg.svd(x),
        lambda x: torch.linalg.inv(x),
        lambda x: torch.linalg.solve(x, x),
        lambda x: torch.linalg.cholesky(x @ x.mT),
        lambda x: x * torch.tensor([1.0, 2.0, 3.0]),
        lambda x: torch.as_tensor(0.5) * x,
        lambda x: x.unique(),
    ],
)
def test_the_watch_for_that_sees(read):
    x = torch.eye(3)
    with Recordable(), pytest.raises(AssertionError, match="recorded"):
        read(x)


@pytest.mark.parametrize(("precision", "clip", "stored"), TRAINED)
def test_trains_as_the_step_itself_bit_for_bit(precision, clip, stored):
    """Through all kinds of steps, with dropout, and a smaller batch at the end of each epoch."""
    found, tape = [], Tape()
    kinds = 2 if clip in ("none", "amortised") else 1
    for capture in (False, True):
        distiller = make_distiller(clip=clip)
        step = DistillStep(distiller, new_accelerator(precision), 0.5, 2.0)
        with watch_convergence("cpu") as watch:
            step = CUDAGraphStep(step, tape, watch) if capture else step
            source = distiller.teach if stored else None
            found.append(trained(step, source, epochs=1 + kinds, last=3))
    assert tape.recorded == kinds
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_the_labels_of_mixed_images_are_inputs_of_a_recording(accelerator):
    found, tape = [], Tape()
    for capture in (False, True):
        torch.manual_seed(0)
        step = TaskStep(build_network("mobilenet_student", 4, 0.05), accelerator, 0.1)
        with watch_convergence("cpu") as watch:
            execute = CUDAGraphStep(step, tape, watch) if capture else step
            for images, labels in batches(WARM_UP + 3):
                seed = len(found) % (WARM_UP + 3)
                mixed = batch_module.mixed(TrainingBatch(images, labels), "mixup", 1.0, seed)
                found.append(execute(mixed, 0).task_loss.clone())
                clear_gradients(step)
    assert tape.recorded == 1
    plain, recorded = torch.stack(found).view(2, -1)
    torch.testing.assert_close(recorded, plain, rtol=0, atol=0)
    assert len(set(plain.tolist())) == WARM_UP + 3


def test_each_kind_of_step_is_recorded_once():
    distiller, tape = make_distiller(clip="amortised"), Tape()
    with watch_convergence("cpu") as watch:
        step = CUDAGraphStep(DistillStep(distiller, new_accelerator(), 1.0, 1.0), tape, watch)
        trained(step, None)
    assert (tape.warmed, tape.recorded) == (2 * WARM_UP, 2)


def test_a_first_batch_that_is_short_is_not_what_is_recorded():
    step = DistillStep(make_distiller(clip="norm"), new_accelerator(), 1.0, 1.0)
    tape = Tape()
    with watch_convergence("cpu") as watch:
        graphs = CUDAGraphStep(step, tape, watch)
        # The last one is short too, and as before it is an ordinary step.
        for size in (3, 8, 8, 8, 8, 3, 8):
            batch = TrainingBatch(*next(batches(1, images=size)))
            assert graphs(batch, 0).logits.shape == (size, 4)
            clear_gradients(step)
    assert (tape.warmed, tape.recorded) == (1 + WARM_UP, 1)


def test_a_smaller_size_that_stays_is_recorded():
    step = DistillStep(make_distiller(clip="norm"), new_accelerator(), 1.0, 1.0)
    tape = Tape()
    with watch_convergence("cpu") as watch:
        graphs = CUDAGraphStep(step, tape, watch)
        for size in (8, 3, 3, 3, 3, 3):
            graphs(TrainingBatch(*next(batches(1, images=size))), 0)
            clear_gradients(step)
    assert tape.recorded == 1


def test_a_recording_that_fails_shows_the_errors_cause(monkeypatch):
    class Graph(contextlib.nullcontext):
        def __init__(self, *_, **__):
            super().__init__()

        def __exit__(self, *_):
            raise RuntimeError("operation failed due to a previous error during capture")

    def work():
        raise RuntimeError("my_layer.py reads a number")

    generator = Mock()
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Mock())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "default_generators", [generator])
    recorder = object.__new__(CUDARecorder)
    recorder.stream = Mock(device_index=0)
    with pytest.raises(RuntimeError, match=r"^my_layer\.py reads a number$"):
        recorder.record(work)
    generator.graphsafe_set_state.assert_called_once()


def test_a_replay_makes_no_new_memory():
    """The optimizer and the meter read where a graph writes."""
    distiller = make_distiller(FSPLoss)
    with watch_convergence("cpu") as watch:
        inner = DistillStep(distiller, new_accelerator(), 1.0, 1.0)
        step = CUDAGraphStep(inner, Tape(), watch)
        places = []
        for images, labels in batches(WARM_UP + 3):
            result = step(TrainingBatch(images, labels), 0)
            tensors = (result.logits, *(p.grad for p in inner.parameters()))
            places.append([tensor.data_ptr() for tensor in tensors])
            clear_gradients(inner)
    assert places[-1] == places[-2] == places[-3]


def test_what_cannot_be_recorded_runs_as_it_is():
    plain, refused = (
        DistillStep(without_dropout(make_distiller(clip="amortised")), new_accelerator(), 0.5, 2.0)
        for _ in range(2)
    )
    with watch_convergence("cpu") as watch:
        step = CUDAGraphStep(refused, Refusing(), watch)
        with pytest.warns(RuntimeWarning, match=r"not permitted when .*`capture: off`") as warned:
            found = trained(step, None)
    assert len(warned) == 1
    torch.testing.assert_close(found, trained(plain, None), rtol=0, atol=0)


def without_dropout(distiller):
    """For steps that draw other random numbers: in a recording that fails, or in a graph."""
    for module in distiller.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return distiller


def test_counts_the_matrices_of_replays():
    class Graph(Tape):
        """Runs Python once, when it records, as a graph does."""

        def record(self, work):
            outputs = work()
            return lambda: outputs

    counted = []
    for recorder in (None, Graph()):
        # Half of their channels are enough for `auto` to iterate, and so to count.
        step = DistillStep(make_distiller(width=0.5), new_accelerator(), 1.0, 1.0)
        with watch_convergence("cpu") as watch:
            step = step if recorder is None else CUDAGraphStep(step, recorder, watch)
            for images, labels in batches(WARM_UP + 4, images=2):
                step(TrainingBatch(images, labels), 0)
                clear_gradients(step)
        counted.append((watch.decomposed, watch.differentiated))
    assert counted[0] == counted[1]
    # Four taps of two images, in seven steps; the teacher's are decomposed only.
    assert counted[0][1] == 4 * 2 * (WARM_UP + 4)
    assert counted[0][0] > 0


@pytest.mark.parametrize("last", [8, 3])
def test_a_transfer_that_teaches_nothing_is_noticed(last):
    distiller = make_distiller(FSPLoss)
    distiller.student = distiller.teacher
    distiller._student_taps.model = distiller.teacher
    distiller.teacher.requires_grad_(True)
    with watch_convergence("cpu") as watch:
        inner = DistillStep(distiller, new_accelerator(), 1.0, 1.0)
        step = CUDAGraphStep(inner, Tape(), watch)
        for epoch in range(2):
            for images, labels in batches(10, last=last):
                step(TrainingBatch(images, labels), epoch)
            with pytest.warns(TransferWarning, match=f"in every step of epoch {epoch}"):
                inner.end_epoch()


def taped(monkeypatch):
    tapes = []

    def recorded_step(step, config, device, watch, scaler):
        tapes.append(Tape())
        return CUDAGraphStep(step, tapes[-1], watch)

    monkeypatch.setattr(trainer_module, "executed_step", recorded_step)
    return tapes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip": "amortised", "clip_interval": 2, "epochs": 4},
        {"precision": "bf16", "max_grad_norm": 1.0},
        {"transfer_epochs": 2, "optimizer": "adamw", "schedule": "one_cycle"},
        {
            "network": "vgg_student",
            "augmentation": "paper",
            "loss": "fsp+soft_target",
            "learning_rate": 0.005,
        },
    ],
)
def test_the_loop_comes_to_the_same_with_it(tmp_path, teacher_run, monkeypatch, changes):
    if changes.get("network"):
        train(train_config(tmp_path / "teacher", width=0.1, network="vgg_teacher", epochs=1))
        teacher_run = tmp_path / "teacher"
        changes = {**changes, "width": 0.1}
    distill(distill_config(tmp_path / "plain", teacher_run, **changes))
    tapes = taped(monkeypatch)
    distill(distill_config(tmp_path / "recorded", teacher_run, **changes))
    assert all(tape.recorded for tape in tapes)
    assert len(tapes) > 0
    assert outcome(tmp_path / "recorded") == outcome(tmp_path / "plain")


@pytest.mark.parametrize("check_every", [2, 50])
def test_the_loop_notices_a_loss_that_is_not_finite(tmp_path, monkeypatch, check_every):
    taped(monkeypatch)
    monkeypatch.setattr(trainer_module, "CHECK_EVERY", {"cpu": check_every})
    with pytest.raises(TrainingError, match=r"^loss: .*nan in epoch 1, by step [24]"):
        train(train_config(tmp_path / "run", learning_rate=1e30))
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_and_a_transfer_loss_that_is_not(tmp_path, teacher_run, monkeypatch):
    """Recorded, the distiller itself cannot look."""
    monkeypatch.setattr(FSPLoss, "forward", lambda *args: args[1][0].sum() * float("inf"))
    with recorded(), pytest.raises(TrainingError, match=r"transfer_loss: .*epoch 1, step 1"):
        distill(distill_config(tmp_path / "run", teacher_run, loss="fsp", transfer_epochs=1))
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_svd_by_subspace_says_what_share_missed_its_bound(tmp_path):
    few = {"network": "vgg_student", "width": 0.5, "train_size": 64}
    train(train_config(tmp_path / "teacher", epochs=1, **few))
    for loss in ("svd", "soft_target"):
        config = distill_config(
            *(tmp_path / loss, tmp_path / "teacher"),
            **few,
            loss=loss,
            epochs=1,
            max_grad_norm=1.0,
        )
        distill(config)
    (svd,), (soft,) = (read_records(tmp_path / loss) for loss in ("svd", "soft_target"))
    assert 0 <= svd.svd_missed < 0.5
    assert 0 <= svd.svd_close < 0.5
    assert (soft.svd_missed, soft.svd_close) == (None, None)


def test_on_a_cpu_nothing_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(CUDARecorder, "__init__", lambda self, device: pytest.fail("recorded"))
    train(train_config(tmp_path / "run"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(("loss", "clip"), CASES)
def test_on_a_gpu(loss, clip, stored):
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator, device = Accelerator(), torch.device("cuda")
    found = []
    for capture in (False, True):
        distiller = without_dropout(make_distiller(LOSSES[loss], clip, width=1.0, device=device))
        step = DistillStep(distiller, accelerator, 0.5, 2.0)
        with watch_convergence(device) as watch, warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            step = CUDAGraphStep(step, CUDARecorder(device), watch) if capture else step
            found.append(trained(step, distiller.teach if stored else None, last=3, device=device))
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-3)
