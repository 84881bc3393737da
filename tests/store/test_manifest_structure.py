import json
from dataclasses import asdict, dataclass

import pytest
import torch

from stores import KINDS, knowledge
from svdistill.common.errors import ArgumentError, RunError
from svdistill.losses import Knowledge, SoftTargetKnowledge, SumKnowledge
from svdistill.store.manifest import (
    Leaf,
    Node,
    decode,
    describe,
    encode,
    find_class,
    from_json,
    rebuild,
)


@dataclass(frozen=True)
class Nested(Knowledge):
    """A loss of one's own may nest tuples in tuples."""

    maps: tuple[tuple[torch.Tensor, ...], ...]
    gain: torch.Tensor


@pytest.mark.parametrize("kind", KINDS)
def test_knowledge_comes_back_through_json(kind):
    whole = knowledge(kind)
    structure = from_json(json.loads(json.dumps(asdict(describe(whole, "float16")))))
    assert structure == describe(whole, "float16")
    again = rebuild(structure, iter(whole.tensors()))
    assert type(again) is type(whole)
    assert all(one is other for one, other in zip(again.tensors(), whole.tensors(), strict=True))


def test_leaves_are_named_in_the_order_of_the_tensors():
    leaves = describe(knowledge("sum"), "float16").leaves()
    assert [leaf.name for leaf in leaves] == [
        "parts[0].singular_values[0]",
        "parts[0].singular_values[1]",
        "parts[0].right_vectors[0]",
        "parts[0].right_vectors[1]",
        "parts[1].logits",
    ]
    assert [leaf.shape for leaf in leaves] == [(2,), (2,), (8, 2), (24, 2), (100,)]


def test_few_numbers_stay_float32():
    leaves = describe(knowledge("sum"), "float16").leaves()
    assert [leaf.dtype for leaf in leaves] == ["float32"] * 3 + ["float16"] * 2
    assert sum(leaf.bytes for leaf in leaves) == 4 * (2 + 2 + 16) + 2 * (48 + 100)


def test_a_knowledge_of_ones_own():
    whole = Nested(((torch.ones(3, 2), torch.zeros(3)), ()), torch.ones(3, 1, 4))
    structure = from_json(json.loads(json.dumps(asdict(describe(whole, "float32")))))
    again = rebuild(structure, iter(whole.tensors()))
    assert isinstance(again, Nested)
    assert (len(again.maps), len(again.maps[0]), again.maps[1]) == (2, 2, ())


@pytest.mark.parametrize("tensor", [torch.ones(3, 4).long(), torch.ones(()), torch.ones(3, 0)])
def test_what_cannot_be_kept(tensor):
    with pytest.raises(ArgumentError, match=r"knowledge parts\[0\]\.gain: expected floats"):
        describe(SumKnowledge((Nested((), tensor),)), "float32")


def test_a_class_that_is_not_imported_is_refused():
    with pytest.raises(RunError, match=r"my\.Own with 1 fields.*import the module"):
        find_class(Node("my.Own", (Leaf("a", (1,), "float32"),)))


def test_a_class_that_has_changed_is_refused():
    node = describe(knowledge("svd"), "float32")
    with pytest.raises(RunError, match="SVDKnowledge with 1 fields"):
        find_class(Node(node.knowledge, node.fields[:1]))


def test_names_are_never_imported():
    for name in ("os.system", "builtins.eval", "svdistill.losses.transfer.Knowledge"):
        with pytest.raises(RunError, match="no such class"):
            find_class(Node(name, ()))


LEAF = {"name": "a", "shape": [3], "dtype": "float16"}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [LEAF],
        LEAF,
        "text",
        {"knowledge": "a", "fields": []},
        {"knowledge": "a", "fields": LEAF},
        {"knowledge": 3, "fields": [LEAF]},
        {"knowledge": "a", "fields": [LEAF], "more": 1},
        *(
            {"knowledge": "a", "fields": [{**LEAF, **change}]}
            for change in (
                {"shape": [0]},
                {"shape": [-1]},
                {"shape": [2.0]},
                {"shape": [True]},
                {"shape": 3},
                {"shape": [2**40]},
                {"shape": [2**20, 2**20]},
                {"dtype": "object"},
                {"dtype": "float16\n"},
                {"more": 1},
                {"dtype": ["float16"]},
                {"name": None},
            )
        ),
        {"knowledge": "a", "fields": [LEAF] * 5000},
    ],
)
def test_what_is_no_structure(value):
    with pytest.raises(
        ValueError, match=r"structure|tensors|unknown|(name|shape|dtype).*: expected"
    ):
        from_json(value)


def test_depth_is_bounded():
    value = [LEAF]
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="too deeply"):
        from_json({"knowledge": "a", "fields": value})


# Rows


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
