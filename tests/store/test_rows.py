import pytest
import torch

from stores import KINDS, knowledge
from svdistill.common.errors import RunError
from svdistill.losses import SoftTargetKnowledge
from svdistill.store.structure import decode, describe, encode


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_hold_all_that_the_dtype_can_tell(kind, dtype):
    whole = knowledge(kind)
    structure = describe(whole, dtype)
    rows = encode(whole, structure)
    assert rows.shape == (50, sum(leaf.bytes for leaf in structure.leaves()))
    again = decode(rows, structure)
    for leaf, one, other in zip(structure.leaves(), again.tensors(), whole.tensors(), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other.to(getattr(torch, leaf.dtype)).float())


def test_a_row_holds_one_image():
    whole = knowledge("sum")
    structure = describe(whole, "float16")
    rows = encode(whole, structure)
    order = torch.randperm(50)
    again = decode(rows[order], structure)
    for one, other in zip(again.tensors(), decode(rows, structure).tensors(), strict=True):
        assert torch.equal(one, other[order])


def test_tensors_may_be_strided_and_of_another_float():
    logits = torch.randn(100, 6).T
    structure = describe(SoftTargetKnowledge(logits), "float32")
    again = decode(encode(SoftTargetKnowledge(logits.double()), structure), structure)
    assert torch.equal(again.logits, logits)


@pytest.mark.parametrize(
    ("value", "dtype", "match"),
    [
        (70_000.0, "float16", r"knowledge logits: .*65504, as float16.*got 70000; use float32"),
        (float("nan"), "float16", "got NaN or infinity; check"),
        (float("-inf"), "float32", "got NaN or infinity; check"),
    ],
)
def test_what_the_dtype_cannot_hold(value, dtype, match):
    logits = torch.zeros(4, 100)
    logits[2, 7] = value
    whole = SoftTargetKnowledge(logits)
    with pytest.raises(RunError, match=match):
        encode(whole, describe(whole, dtype))
