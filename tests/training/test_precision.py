"""`--precision auto` measures, decides, remembers, and changes no number."""

import copy

import pytest
import torch
from torch import nn

from svdistill.common import Measurement
from svdistill.config import CacheConfig, DistillConfig, TrainConfig
from svdistill.distillation import Distiller
from svdistill.losses import FSPLoss, SoftTargetLoss
from svdistill.runs.directory import stored_values
from svdistill.store import IN_BF16, KnowledgeStore
from svdistill.training import cache_knowledge, distill, precision as precision_module, train
from svdistill.training.batch import TrainingBatch
from svdistill.training.precision import FEW, faster, with_precision
from svdistill.training.progress import Reporter
from svdistill.training.step import DistillStep, autocast
from tiny_runs import RANDOM, TINY, KillAfter, Killed, Watching, distill_config, outcome

LOSS = {"loss": "svd+soft_target"}
SLOW, FAST = (1.0, 0.95), (1.0, 0.85)  # seconds in float32 and in bf16


@pytest.fixture
def clock(monkeypatch):
    """Every work runs once; the times are the given ones: on a few images, then on the batch."""

    def times(*each):
        left, seen = list(each), []

        def interleave(cases, rounds, **options):
            for case in cases:
                case.run()
                seen.append(case)
            return [Measurement.of([seconds] * rounds) for seconds in left.pop(0)]

        monkeypatch.setattr(precision_module, "interleave", interleave)
        return seen

    return times


def precisions(run):
    stored = stored_values(run / "config.yaml")
    return stored["precision"], stored.get("teacher_precision")


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        # Teacher and student, each first on a few images.
        ((FAST, FAST, FAST, SLOW), {"precision": "float32", "teacher_precision": "bf16"}),
        (((1.0, 3.1), FAST, FAST), {"precision": "bf16", "teacher_precision": "float32"}),
        ((FAST, FAST, FAST, FAST), {"precision": "bf16", "teacher_precision": None}),
    ],
)
def test_a_run_is_that_of_the_chosen_precision(times, chosen, tmp_path, teacher_run, clock):
    options = {**RANDOM, **LOSS, "epochs": 1}
    clock()  # where precisions are given, nothing is measured
    distill(distill_config(tmp_path / "given", teacher_run, **options, **chosen))
    clock(*times)
    distill(distill_config(tmp_path / "auto", teacher_run, precision="auto", **options))
    assert precisions(tmp_path / "auto") == tuple(chosen.values())
    assert outcome(tmp_path / "auto") == outcome(tmp_path / "given")


def test_the_teacher_alone_is_measured_where_the_students_is_given(tmp_path, teacher_run, clock):
    seen = clock(FAST, FAST)
    config = distill_config(tmp_path / "run", teacher_run, teacher_precision="auto", epochs=1)
    distill(config)
    assert len(seen) == 4
    assert precisions(tmp_path / "run") == ("float32", "bf16")


def test_a_resumed_run_keeps_its_precision(tmp_path, clock):
    options = {**TINY, "output": str(tmp_path / "run"), "precision": "auto"}
    clock(FAST, FAST)
    with pytest.raises(Killed):
        train(TrainConfig(**options), KillAfter(1))
    clock()
    train(TrainConfig(**options, resume=True))
    assert precisions(tmp_path / "run")[0] == "bf16"
    given = {**options, "output": str(tmp_path / "given"), "precision": "bf16"}
    train(TrainConfig(**given))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "given")


def test_a_store_is_that_of_the_chosen_precision(tmp_path, teacher_run, clock):
    options = {"data": "digits", "train_size": 100, "views": 1, "teacher": str(teacher_run), **LOSS}

    def store(name, **changes):
        return cache_knowledge(CacheConfig(output=str(tmp_path / name), **options, **changes))

    clock(FAST, FAST)
    found = store("auto", precision="auto")
    clock()
    given = store("given", precision="bf16")
    assert found.manifest.identity() == given.manifest.identity()
    assert found.manifest.teacher.endswith(IN_BF16)
    for one, other in zip(
        *(s.read(torch.arange(100), 0).tensors() for s in (found, given)), strict=True
    ):
        assert torch.equal(one, other)
    (shard,) = (tmp_path / "auto").glob("*.bin")
    shard.unlink()
    store("auto", precision="auto", resume=True)
    assert KnowledgeStore(tmp_path / "auto").manifest == given.manifest


class Drawing(nn.Module):
    """Has buffers that each forward pass in training mode changes, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.dropout = nn.Dropout()

    def forward(self, images):
        return self.head(self.dropout(self.norm(self.conv(images)).mean((2, 3))))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 6, 6, generator=generator)
    return TrainingBatch(images, torch.randint(5, (12,), generator=generator))


def test_nothing_is_left_of_a_measurement(batch, clock):
    clock(FAST, FAST, FAST, SLOW)
    distiller = Distiller(Drawing(), Drawing(), FSPLoss(), taps=["conv", "norm"])
    before = copy.deepcopy(distiller.state_dict())
    state, carried = torch.get_rng_state(), distiller.carried_state()
    config = DistillConfig(output="runs/a", teacher="t", loss="fsp", precision="auto")
    found = with_precision(config.filled(), distiller, batch, Reporter())
    assert (found.precision, found.teacher_precision) == ("float32", "bf16")
    assert torch.equal(torch.get_rng_state(), state)
    assert distiller.carried_state() == carried
    assert all(torch.equal(before[name], now) for name, now in distiller.state_dict().items())
    assert all(parameter.grad is None for parameter in distiller.parameters())


@pytest.mark.parametrize(
    ("times", "choice", "counts"),
    [
        ([(1.0, 3.1)], "float32", [FEW]),
        ([(1.0, 2.9), (10.0, 9.1)], "float32", [FEW, 12]),
        ([(1.0, 2.9), (10.0, 9.0)], "bf16", [FEW, 12]),
    ],
)
def test_the_choice(times, choice, counts, batch, clock):
    clock(*times)
    ran = {"float32": [], "bf16": []}
    works = {name: seen.append for name, seen in ran.items()}
    reporter = Watching()
    assert faster("the teacher", works, batch.images, reporter) == choice
    assert ran == {"float32": counts, "bf16": counts}
    ((_, told),) = reporter.told
    seconds = [f"{1e3 * one:.1f} ms in {name}" for one, name in zip(times[-1], ran, strict=True)]
    assert told == f"precision: {choice} for the teacher ({counts[-1]} images in " + (
        ", ".join(seconds) + ")"
    )


@pytest.mark.parametrize("student", ["float32", "bf16"])
@pytest.mark.parametrize("teacher", ["float32", "bf16"])
def test_each_network_computes_in_its_precision(student, teacher, batch):
    """The same as with knowledge that is computed outside of the step."""

    class InPrecision:
        scaler = None

        def autocast(self):
            return autocast(student, torch.device("cpu"))

    torch.manual_seed(0)
    networks = Drawing(), Drawing()
    found = []
    for by_hand in (False, True):
        distiller = Distiller(
            *copy.deepcopy(networks), FSPLoss(), taps=["conv", "norm"], unclipped=SoftTargetLoss()
        )
        given = batch
        if by_hand:
            with torch.autocast("cpu", torch.bfloat16, enabled=teacher == "bf16"):
                given = batch._replace(knowledge=distiller.teach(batch.images))
        step = DistillStep(
            distiller,
            InPrecision(),
            1.0,
            1.0,
            teacher_precision=None if by_hand else teacher,
        )
        torch.manual_seed(1)
        result = step(given, 0.0)
        found.append([result.transfer_loss, *(p.grad for p in step.parameters())])
    assert all(map(torch.equal, *found))
    dtypes = {"float32": torch.float32, "bf16": torch.bfloat16}
    assert result.logits.dtype == dtypes[student]
    assert given.knowledge.parts[0] is not None
