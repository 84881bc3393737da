"""What the networks take: several tensors, dictionaries, keywords; teachers of other formats."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import svdistill as sd
from svdistill.common.errors import ArgumentError, TrainingError


def batch(seed=0, images=6):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 20, (images, 7), generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": (torch.rand(images, 7, generator=generator) > 0.3).float(),
    }


class Text(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.body, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def tokens(self, input_ids, attention_mask):
        return self.body(self.embed(input_ids)) * attention_mask[..., None]


class OfDictionary(Text):
    def forward(self, batch):
        return self.head(self.tokens(batch["input_ids"], batch["attention_mask"]).sum(1))


class OfTensors(Text):
    def forward(self, input_ids, attention_mask=None, *, scale=1.0):
        if attention_mask is None:
            attention_mask = torch.ones(input_ids.shape)
        return {"logits": self.head(scale * self.tokens(input_ids, attention_mask).sum(1))}


CALLS = {
    "dictionary": (OfDictionary, lambda b: ((b,), {})),
    "two tensors": (OfTensors, lambda b: (tuple(b.values()), {})),
    "keywords": (OfTensors, lambda b: ((), b)),
    "both": (OfTensors, lambda b: ((b["input_ids"],), {"attention_mask": b["attention_mask"]})),
    "a number": (OfTensors, lambda b: (tuple(b.values()), {"scale": 0.5})),
    "a default": (OfTensors, lambda b: ((b["input_ids"],), {})),
    "None": (OfTensors, lambda b: ((b["input_ids"], None), {})),
}


@pytest.mark.parametrize("call", CALLS)
def test_both_networks_get_all_inputs(call):
    kind, arguments = CALLS[call]
    teacher, student = kind(1), kind(2)
    expected_of = copy.deepcopy(teacher)
    loss = sd.SumLoss([sd.SoftTargetLoss(), sd.SVDLoss()], [1.0, 1.0])
    distiller = sd.Distiller(teacher, student, loss, taps=["embed", "body"])
    for seed in (0, 0, 1):
        inputs, keywords = arguments(batch(seed))
        with torch.no_grad():
            found = expected_of(*inputs, **keywords), student(*inputs, **keywords)
            taught, logits = (out if torch.is_tensor(out) else out["logits"] for out in found)
        out = distiller(*inputs, **keywords)
        torch.testing.assert_close(out.logits, logits)
        knowledge = distiller.teach(*inputs, **keywords)
        torch.testing.assert_close(knowledge.parts[0].logits, taught)
        again = distiller(*inputs, knowledge=knowledge, **keywords)
        torch.testing.assert_close(again.transfer_loss, out.transfer_loss)
    distiller.backward(F.cross_entropy(out.logits, torch.arange(6) % 5), out, progress=0)
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_calls_in_turn_with_and_without_an_argument():
    """A graph that was traced for one of them must not answer the other."""
    teacher = OfTensors(1)
    distiller = sd.Distiller(teacher, OfTensors(2), sd.SoftTargetLoss(), taps=[])
    b = batch()
    for _ in range(2):
        for inputs, keywords in (
            ((b["input_ids"],), {}),
            ((), b),
            ((), b | {"scale": 0.5}),
            ((), b | {"scale": 0.25}),
        ):
            with torch.no_grad():
                expected = teacher(*inputs, **keywords)["logits"]
            torch.testing.assert_close(distiller.teach(*inputs, **keywords).logits, expected)


def test_inputs_of_an_unknown_kind_go_through_the_whole_teacher():
    class Batch:
        def __init__(self, b):
            self.ids, self.mask = b.values()

    class OfObject(Text):
        def forward(self, b):
            return self.head(self.tokens(b.ids, b.mask).sum(1))

    teacher = OfObject(1)
    distiller = sd.Distiller(teacher, OfObject(2), sd.SoftTargetLoss(), taps=[])
    given = Batch(batch())
    torch.testing.assert_close(distiller.teach(given).logits, teacher(given).detach())


def test_knowledge_by_position_is_refused():
    distiller = sd.Distiller(OfDictionary(1), OfDictionary(2), sd.SoftTargetLoss(), taps=[])
    knowledge = distiller.teach(batch())
    for call in (distiller, distiller.teach):
        with pytest.raises(ArgumentError, match=r"^knowledge: .*knowledge=knowledge"):
            call(batch(), knowledge)


def convnet(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(),
        nn.Linear(8 * 36, 5),
    ).eval()  # fmt: skip


IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
FORMATS = {
    "script": torch.jit.script,
    "trace": lambda net: torch.jit.trace(net, IMAGES),
    "frozen": lambda net: torch.jit.freeze(torch.jit.script(net)),
    "export": lambda net: torch.export.export(net, (IMAGES,)).module(),
    "wrapped": lambda net: nn.Sequential(nn.Dropout(), FORMATS["export"](net)),
}


@pytest.mark.parametrize("format_", FORMATS)
def test_teachers_of_other_formats(format_):
    expected = convnet()(IMAGES).detach()
    teacher, student = FORMATS[format_](convnet()), convnet(1)
    distiller = sd.Distiller(teacher, student, sd.SoftTargetLoss(), taps=[])
    for step in range(3):
        distiller.train(step != 1)
        torch.testing.assert_close(distiller.teach(IMAGES).logits, expected)
        out = distiller(IMAGES)
        distiller.backward(F.cross_entropy(out.logits, torch.tensor([0, 1])), out, progress=0)
        for parameter in student.parameters():
            parameter.grad = None
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert distiller.to("cpu").student.training


def test_taps_in_torchscript_are_refused():
    with pytest.raises(ArgumentError, match=r"^taps: .*'0' of a TorchScript module; .*taps=\[\]"):
        sd.Distiller(torch.jit.script(convnet()), convnet(1), sd.SVDLoss(), taps=["0", "2"])


def test_taps_in_an_exported_program_are_refused():
    distiller = sd.Distiller(
        FORMATS["export"](convnet()), convnet(1), sd.SVDLoss(), taps=["0", "1"]
    )
    with pytest.raises(ArgumentError, match=r"^tap '0': .*got 0 runs; .*tap the original"):
        distiller(IMAGES)


def test_an_export_in_training_mode_is_refused():
    program = torch.export.export(convnet().train(), (IMAGES,)).module()
    with pytest.raises(ArgumentError, match=r"^teacher: .*after \.eval\(\)"):
        sd.Distiller(program, convnet(1), sd.SoftTargetLoss(), taps=[])


def test_a_batch_that_an_export_does_not_take():
    distiller = sd.Distiller(FORMATS["export"](convnet()), convnet(1), sd.SoftTargetLoss(), taps=[])
    with pytest.raises(ArgumentError, match=r"^teacher: .*dynamic_shapes"):
        distiller(IMAGES[:1])


def test_what_is_no_module_is_refused():
    program = torch.export.export(convnet(), (IMAGES,))
    with pytest.raises(ArgumentError, match=r"^teacher: .* got ExportedProgram; .*module"):
        sd.Distiller(program, convnet(1), sd.SoftTargetLoss(), taps=[])
    with pytest.raises(ArgumentError, match=r"^student: expected an nn.Module, got function"):
        sd.Distiller(convnet(), lambda x: x, sd.SoftTargetLoss(), taps=[])


class NoKnowledge(sd.SVDLoss):
    def extract(self, features, logits):
        return {"features": features}


class PerImage(sd.PositionGramLoss):
    def forward(self, features, logits, knowledge):
        return super().forward(features, logits, knowledge).expand(len(logits))


def test_a_loss_is_an_object():
    for given in ("svd", sd.SVDLoss, None):
        with pytest.raises(ArgumentError, match=r"^loss: expected a TransferLoss, got .*Gram"):
            sd.Distiller(convnet(), convnet(), given, taps=["0"])
    with pytest.raises(ArgumentError, match=r"^unclipped: expected a TransferLoss, got 'dist'"):
        sd.Distiller(convnet(), convnet(), sd.SVDLoss(), taps=["0"], unclipped="dist")


def test_losses_of_ones_own_that_are_wrong():
    taught = sd.Distiller(convnet(), convnet(), NoKnowledge(), taps=["0", "1"])
    with pytest.raises(TrainingError, match=r"^NoKnowledge\.extract: expected a Know.*got dict"):
        taught(IMAGES)
    taught = sd.Distiller(convnet(), convnet(), PerImage(), taps=["0", "1"])
    output = taught(IMAGES)
    with pytest.raises(ArgumentError, match=r"^transfer_loss: expected a scalar, got shape"):
        taught.backward(output.logits.sum(), output, progress=0)


@pytest.mark.parametrize("clip", ["norm", "amortised", "none"])
def test_a_task_loss_without_a_graph_is_refused_unless_it_is_zero(clip):
    taught = sd.Distiller(convnet(), convnet(), sd.SVDLoss(), taps=["0", "1"], clip=clip)
    output = taught(IMAGES)
    with pytest.raises(ArgumentError, match=r"^task_loss: expected a loss with a graph, or 0 .*2"):
        taught.backward(torch.tensor(2.0), output, progress=0)
    assert all(parameter.grad is None for parameter in taught.parameters())
    output = taught(IMAGES)
    taught.backward(torch.tensor(0.0), output, progress=0)
    assert any(parameter.grad is not None for parameter in taught.parameters())
