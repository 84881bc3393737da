"""The loss also has its row in the contract of all losses, tests/losses/test_loss_contract.py."""

import importlib
import re

import pytest
import torch

import svdistill as sd
from svdistill.store.manifest import describe, rebuild


def test_teaches(run_script):
    printed = run_script()
    transfer = [float(number) for number in re.findall(r"transfer loss (\S+)", printed)]
    assert transfer[-1] < 0.8 * transfer[0]
    assert float(re.search(r"test accuracy (\S+) %", printed)[1]) > 70


def maps(seed, channels):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, channels, side, side, generator=generator) for side in (8, 4)]


def test_equals_torchdistills(example):
    """Networks of different widths; theirs follows the authors' code too."""
    student, teacher = maps(0, channels=6), maps(1, channels=9)
    loss = example.AttentionLoss()
    ours = loss(student, None, loss.extract(teacher, None))
    attention = importlib.import_module("torchdistill.losses.mid_level").ATLoss
    pairs = {
        tap: {side: {"io": "output", "path": tap} for side in ("student", "teacher")}
        for tap in ("0", "1")
    }
    theirs = attention(pairs, mode="code")(recorded(student), recorded(teacher))
    torch.testing.assert_close(ours, theirs)


def recorded(features):
    return {str(tap): {"output": feature} for tap, feature in enumerate(features)}


def test_a_store_can_keep_its_knowledge(example):
    knowledge = example.AttentionLoss().extract(maps(0, channels=6), None)
    node = describe(knowledge, "float32")
    assert [leaf.shape for leaf in node.leaves()] == [(64,), (16,)]
    again = rebuild(node, iter(knowledge.tensors()))
    assert isinstance(again, example.AttentionKnowledge)


@pytest.mark.parametrize(
    ("teacher", "what"),
    [
        (maps(1, 6)[:1], "number of taps"),
        ([feature[:2] for feature in maps(1, 6)], "images and positions"),
        (maps(1, 6)[::-1], "images and positions"),
    ],
)
def test_what_does_not_fit_is_refused(example, teacher, what):
    loss = example.AttentionLoss()
    with pytest.raises(sd.ArgumentError, match=f"^{what}: expected"):
        loss(maps(0, 6), None, loss.extract(teacher, None))
