from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch

from svdistill.common.errors import ArgumentError
from svdistill.common.logits import as_logits

LOGITS = torch.rand(2, 10)
Inception = namedtuple("Inception", ["logits", "aux_logits"])
Pair = namedtuple("Pair", ["classes", "distilled"])


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        SimpleNamespace(logits=LOGITS, loss=None),
        {"loss": 0.5, "logits": LOGITS},
        OrderedDict(logits=LOGITS),
        (LOGITS, torch.rand(2, 8)),
        [LOGITS],
        Inception(LOGITS, None),
        Pair(LOGITS, torch.rand(2, 10)),
    ],
    ids=lambda output: type(output).__name__,
)
def test_finds_the_logits_themselves(output):
    assert as_logits(output) is LOGITS


def test_a_hugging_face_output():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    assert as_logits(outputs.ImageClassifierOutput(logits=LOGITS)) is LOGITS


def test_a_tensor_of_any_shape_is_the_networks_own_affair():
    assert as_logits(LOGITS[0]).shape == (10,)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (None, "NoneType"),
        ("logits", "str"),
        (SimpleNamespace(logits=None), "SimpleNamespace"),
        ({"out": LOGITS}, "dict with the keys 'out'"),
        ({"logits": None}, "dict with the keys 'logits'"),
        ((), "tuple of nothing"),
        ((None, LOGITS), "tuple of NoneType, torch.float32 of"),
        ([torch.rand(2, 8, 4, 4), LOGITS], r"list of torch.float32 of shape \[2, 8, 4, 4\], torch"),
    ],
)
def test_says_what_came_instead_and_what_to_do(output, said):
    with pytest.raises(ArgumentError, match=rf"^network: .*, got {said}.*; wrap the network"):
        as_logits(output)
